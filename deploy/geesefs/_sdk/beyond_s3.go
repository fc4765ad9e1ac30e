// What GeeseFS calls beyond S3. Its own SDK has these for one vendor's store and cannot be fetched as a module; with
// the released SDK and this file, GeeseFS is told that the store does not have them, and goes on with plain S3.
//
// The build puts this file into the vendored package s3 of the AWS SDK for Go.

package s3

import (
	"io"
	"time"

	"github.com/aws/aws-sdk-go/aws/awserr"
	"github.com/aws/aws-sdk-go/aws/request"
)

// ListObjectsV1ExtInput asks for a listing that carries user metadata.
type ListObjectsV1ExtInput ListObjectsV2Input

// ListObjectsV1ExtOutput would be that listing.
type ListObjectsV1ExtOutput ListObjectsV2Output

// PatchObjectInput asks for a change of a part of an object.
type PatchObjectInput struct {
	Bucket              *string
	Key                 *string
	ContentRange        *string
	PatchAppendPartSize *int64
	Body                io.ReadSeeker
}

// PatchedObject is what the object would be after it.
type PatchedObject struct {
	ETag         *string
	LastModified *time.Time
}

// PatchObjectOutput would be the answer.
type PatchObjectOutput struct {
	Object *PatchedObject
}

// ListObjectsV1ExtRequest fails with NotImplemented when it is sent.
func (c *S3) ListObjectsV1ExtRequest(*ListObjectsV1ExtInput) (*request.Request, *ListObjectsV1ExtOutput) {
	return c.notInS3("ListObjectsV1Ext"), &ListObjectsV1ExtOutput{}
}

// PatchObjectRequest fails with NotImplemented when it is sent.
func (c *S3) PatchObjectRequest(*PatchObjectInput) (*request.Request, *PatchObjectOutput) {
	return c.notInS3("PatchObject"), &PatchObjectOutput{Object: &PatchedObject{}}
}

// notInS3 makes a request that never leaves this process.
func (c *S3) notInS3(name string) *request.Request {
	operation := &request.Operation{Name: name, HTTPMethod: "GET", HTTPPath: "/"}
	refused := c.newRequest(operation, nil, nil)
	refused.Error = awserr.New("NotImplemented", name+" is not part of S3", nil)
	return refused
}
