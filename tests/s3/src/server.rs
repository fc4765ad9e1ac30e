//! The server's life: binds, then serves until it is stopped or dropped. Every connection is a task of the accept
//! loop, and the loops are tasks of [`Server`]: dropping it ends all of them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::S3ServiceBuilder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::{Keys, Rights};
use crate::backend::Backend;
use crate::clock;
use crate::conditions::WriteConditions;
use crate::control;
use crate::digest::{self, Etags, Expected};
use crate::edge::Edge;
use crate::faults::Faults;
use crate::index::{PageRequest, Position};
use crate::object::{Attributes, Checksums, Facts, Object};
use crate::requests::Requests;
use crate::shaping::{Connection, Settings, Shape, ShapedStream};
use crate::store::Store;
use crate::tls;

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where S3 is spoken; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where faults and settings are changed over HTTP; without it only by this library.
    pub control: Option<SocketAddr>,
    /// Where the bytes live.
    pub storage: StorageOptions,
    /// The first key; more can be added while it runs.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Buckets to create when they do not exist yet.
    pub buckets: Vec<String>,
    /// The region it claims to be.
    pub region: String,
    /// How slow it is.
    pub settings: Settings,
    /// Smallest part of an upload but the last.
    pub part_bytes_min: u64,
    /// What ETags are made of.
    pub etags: Etags,
    /// Speaks HTTPS when given.
    pub tls: Option<TlsOptions>,
    /// Seed of the faults' probabilities.
    pub seed: u64,
}

/// Where the bytes live.
#[derive(Debug, Clone)]
pub enum StorageOptions {
    /// In memory: fastest, gone at the end.
    Memory,
    /// In files below this directory: survives a restart of the server.
    Files(PathBuf),
}

/// Files of a certificate.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl Options {
    /// In memory, on a free port of the loopback, as fast as can be.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            control: None,
            storage: StorageOptions::Memory,
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            buckets: Vec::new(),
            region: "us-east-1".to_owned(),
            settings: Settings::default(),
            part_bytes_min: 5 << 20,
            etags: Etags::Md5,
            tls: None,
            seed: 0,
        }
    }

    /// Adds a bucket.
    #[must_use]
    pub fn bucket(mut self, name: &str) -> Self {
        self.buckets.push(name.to_owned());
        self
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}; is another server running there?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// A bucket's name is not allowed.
    #[error("{0:?} is no bucket name: 3 to 63 lower-case letters, digits, hyphens and dots")]
    BucketName(String),
    /// A PEM file cannot be read.
    #[error("cannot read {} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        error: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not work together.
    #[error("the certificate or its key cannot be used")]
    Tls(#[source] tokio_rustls::rustls::Error),
}

/// Why a direct access to the stored objects failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AccessError(Box<dyn std::error::Error + Send + Sync>);

/// A running S3 server.
pub struct Server {
    address: SocketAddr,
    control: Option<SocketAddr>,
    https: bool,
    inner: Arc<Inner>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What the control listener may reach as well.
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) keys: Keys,
    pub(crate) shape: Arc<Shape>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) requests: Arc<Requests>,
}

impl Server {
    /// Binds and begins to serve on the current tokio runtime.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let store = match &options.storage {
            StorageOptions::Memory => Store::in_memory(),
            StorageOptions::Files(path) => Store::in_files(path).map_err(|error| StartError::Data {
                path: path.clone(),
                error,
            })?,
        };
        let store = Arc::new(store);
        for name in &options.buckets {
            if !s3s::path::check_bucket_name(name) {
                return Err(StartError::BucketName(name.clone()));
            }
            if store.require_bucket(name).is_err() {
                store.create_bucket(name).map_err(|error| StartError::Data {
                    path: PathBuf::from(name),
                    error: io::Error::other(error),
                })?;
            }
        }
        let acceptor = match &options.tls {
            Some(TlsOptions { certificate, key }) => Some(tls::acceptor(certificate, key)?),
            None => None,
        };
        let keys = Keys::default();
        keys.set(&options.access_key, &options.secret_key, Rights::ReadWrite);
        let inner = Arc::new(Inner {
            store,
            keys,
            shape: Arc::new(Shape::new(options.settings)),
            faults: Arc::new(Faults::new(options.seed)),
            requests: Arc::default(),
        });
        let edge = Arc::new(inner.edge(options.region, options.part_bytes_min, options.etags));
        let https = acceptor.is_some();

        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let (listener, address) = bind(options.listen).await?;
        tasks.spawn(accept(listener, edge, acceptor, stop.clone()));
        let control = match options.control {
            Some(address) => {
                let (listener, address) = bind(address).await?;
                tasks.spawn(control::accept(listener, inner.clone(), stop.clone()));
                Some(address)
            }
            None => None,
        };
        Ok(Self {
            address,
            control,
            https,
            inner,
            tasks,
            stop,
        })
    }

    /// The endpoint for clients; path style only.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The control listener, when there is one.
    pub fn control_endpoint(&self) -> Option<String> {
        Some(format!("http://{}", self.control?))
    }

    /// The scripted faults.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// What was asked so far.
    pub fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    /// The keys it accepts.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// How slow it is.
    pub fn settings(&self) -> Settings {
        self.inner.shape.settings()
    }

    /// Changes how slow it is, from the next request or packet on.
    pub fn set_settings(&self, settings: Settings) {
        self.inner.shape.set(settings);
    }

    /// Creates a bucket without a request.
    pub fn create_bucket(&self, name: &str) -> Result<(), AccessError> {
        self.inner.store.create_bucket(name).map_err(AccessError::of)
    }

    /// Stores an object without a request: neither counted, nor slowed down, nor hit by faults.
    pub async fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> Result<(), AccessError> {
        self.inner
            .put(bucket, key, bytes.into())
            .await
            .map_err(AccessError::of)
    }

    /// Stores `count` objects of the same `size` under `<prefix>0000000` and following, sharing their bytes.
    pub async fn fill(&self, bucket: &str, prefix: &str, count: u64, size: usize) -> Result<(), AccessError> {
        self.inner
            .fill(bucket, prefix, count, size)
            .await
            .map_err(AccessError::of)
    }

    /// An object's bytes, without a request; none when there is no such object.
    pub async fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let object = self.inner.store.get(bucket, key).ok()?;
        object.content.clone().bytes().await.ok()
    }

    /// An object's user metadata, without a request.
    pub fn metadata(&self, bucket: &str, key: &str) -> Option<std::collections::BTreeMap<String, String>> {
        Some(
            self.inner
                .store
                .get(bucket, key)
                .ok()?
                .facts
                .attributes
                .metadata
                .clone(),
        )
    }

    /// Removes an object, without a request.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), AccessError> {
        self.inner
            .store
            .delete(bucket, key, &WriteConditions::default())
            .map_err(AccessError::of)
    }

    /// The keys of a bucket that begin with `prefix`, in order; empty when there is no such bucket.
    pub fn list(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let request = PageRequest {
            prefix,
            delimiter: "",
            from: Position::Start,
            entries_max: usize::MAX,
        };
        let page = self.inner.store.page(bucket, &request).unwrap_or_default();
        page.objects.into_iter().map(|(key, _)| key).collect()
    }

    /// Number of uploads in parts that are under way in a bucket.
    pub fn upload_count(&self, bucket: &str) -> usize {
        self.inner.store.uploads.lock().in_bucket(bucket).count()
    }

    /// Number of objects in a bucket.
    pub fn object_count(&self, bucket: &str) -> usize {
        self.inner.store.object_count(bucket).unwrap_or(0)
    }

    /// Ends all connections, whatever they are doing, and the server. Another may then use its data directory.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Inner {
    fn edge(&self, region: String, part_bytes_min: u64, etags: Etags) -> Edge {
        let backend = Backend {
            store: self.store.clone(),
            shape: self.shape.clone(),
            region,
            part_bytes_min,
            etags,
        };
        let mut builder = S3ServiceBuilder::new(backend);
        builder.set_auth(self.keys.clone());
        builder.set_access(self.keys.clone());
        Edge {
            service: builder.build(),
            faults: self.faults.clone(),
            requests: self.requests.clone(),
            shape: self.shape.clone(),
        }
    }

    pub(crate) async fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<(), crate::error::Error> {
        let body = s3s::dto::StreamingBlob::from(s3s::Body::from(bytes));
        let received =
            digest::receive(&self.store.storage, Etags::Md5, Some(body), Expected::default()).await?;
        let object = Object {
            content: received.content,
            facts: facts(received.etag.clone()),
        };
        self.store.put(bucket, key, object, &WriteConditions::default())?;
        Ok(())
    }

    pub(crate) async fn fill(
        &self,
        bucket: &str,
        prefix: &str,
        count: u64,
        size: usize,
    ) -> Result<(), crate::error::Error> {
        let pattern: Bytes = (0..size).map(|at| (at % 251) as u8).collect();
        let body = s3s::dto::StreamingBlob::from(s3s::Body::from(pattern));
        let received =
            digest::receive(&self.store.storage, Etags::Md5, Some(body), Expected::default()).await?;
        for number in 0..count {
            let object = Object {
                content: received.content.clone(),
                facts: facts(received.etag.clone()),
            };
            let key = format!("{prefix}{number:07}");
            self.store
                .put(bucket, &key, object, &WriteConditions::default())?;
        }
        Ok(())
    }
}

impl AccessError {
    fn of(error: crate::error::Error) -> Self {
        Self(Box::new(error))
    }
}

fn facts(etag: String) -> Facts {
    Facts {
        etag,
        modified: clock::now(),
        attributes: Attributes::default(),
        checksums: Checksums::default(),
        parts: Vec::new(),
    }
}

pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listen
        .await
        .map_err(|error| StartError::Listen { address, error })
}

async fn accept(
    listener: TcpListener,
    edge: Arc<Edge>,
    acceptor: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe: no state.
            () = stop.cancelled() => break,
            // Cancel-safe per tokio's docs.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, edge.clone(), acceptor.clone()));
                }
                // Out of descriptors, for example: others may end and free some.
                Err(error) => tracing::warn!(%error, "cannot accept a connection"),
            },
            // Cancel-safe per tokio's docs; takes ended connections off the set.
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, edge: Arc<Edge>, acceptor: Option<TlsAcceptor>) {
    // Nagle and the client's delayed ACK together would cost 40 ms per small answer.
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection::default());
    let stream = ShapedStream::new(stream, connection.clone(), edge.shape.clone());
    let service = service_fn(|request| {
        let (edge, connection) = (edge.clone(), connection.clone());
        async move { edge.call(connection, request).await }
    });
    let mut http = http1::Builder::new();
    http.header_read_timeout(None);
    let ended = match acceptor {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
            Err(error) => return tracing::debug!(%error, "the TLS handshake failed"),
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
