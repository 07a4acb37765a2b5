//! Git's wire protocol, the client's side.

pub mod advertisement;
pub mod pkt_line;
pub mod smart_http;
