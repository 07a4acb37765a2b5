//! S3 over a versioned store of our own.
//!
//! 1. [`service`]: what the server calls with each HTTP request.
//! 2. `protocol`: S3's requests and answers, over the crate `s3s`, which parses them and
//!    verifies their signatures. Its types stay in there.
//! 3. [`policy`]: what a bucket's policy denies.
//! 4. [`store`]: the objects.
//!
//! Addressing is path style only. `s3s` logs each refused request as an error: a server
//! that shows logs filters the target `s3s` out.

pub mod policy;
mod protocol;
pub mod store;

pub use self::protocol::{ResponseBody, S3Service, service};
pub use self::store::Store;
