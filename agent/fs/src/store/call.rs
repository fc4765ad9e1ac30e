//! Kinds of requests to a store: what is counted, and what tests have go wrong.

/// Which request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Metadata of an object.
    Head,
    /// Bytes of an object.
    Get,
    /// A page of keys.
    List,
    /// A whole object is written.
    Put,
    /// A multipart upload begins.
    CreateUpload,
    /// One part is sent.
    UploadPart,
    /// One part is made of an object there.
    CopyPart,
    /// The object is made of its parts.
    CompleteUpload,
    /// An upload is given up.
    AbortUpload,
    /// An object is copied there.
    Copy,
    /// Objects are deleted.
    Delete,
}

impl Call {
    /// All of them, in the order of their numbers.
    pub const ALL: [Call; 11] = [
        Call::Head,
        Call::Get,
        Call::List,
        Call::Put,
        Call::CreateUpload,
        Call::UploadPart,
        Call::CopyPart,
        Call::CompleteUpload,
        Call::AbortUpload,
        Call::Copy,
        Call::Delete,
    ];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Call::Head => "head",
            Call::Get => "get",
            Call::List => "list",
            Call::Put => "put",
            Call::CreateUpload => "create_upload",
            Call::UploadPart => "upload_part",
            Call::CopyPart => "copy_part",
            Call::CompleteUpload => "complete_upload",
            Call::AbortUpload => "abort_upload",
            Call::Copy => "copy",
            Call::Delete => "delete",
        }
    }
}
