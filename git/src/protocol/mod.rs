//! Git's wire protocol.

pub mod advertisement;
pub mod pkt_line;
pub mod server;
pub mod smart_http;
