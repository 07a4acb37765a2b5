//! Addresses that git servers may have: a mapping's URL, a redirect or a name in the DNS must not
//! lead to services that trust everyone on the function's own host or link.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};

/// Metadata services outside of the link-local ranges: AWS (IPv6: instances, EKS), Google
/// (IPv6), Alibaba and Azure.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// An address that is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForbiddenAddress {
    address: IpAddr,
    range: &'static str,
}

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.range)
    }
}

impl std::error::Error for ForbiddenAddress {}

/// The addresses that are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressPolicy {
    /// Connects to loopback addresses.
    pub(super) loopback: bool,
}

impl AddressPolicy {
    /// Refuses metadata services, link-local, multicast and broadcast addresses, and without
    /// `loopback` loopback and unspecified ones, which reach the host itself.
    pub(super) fn check(self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let refused = |range| Err(ForbiddenAddress { address, range });
        let effective = embedded_ipv4(address).map_or(address, IpAddr::V4);
        let is_link_local = match effective {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_local = match effective {
            // Linux connects all of 0.0.0.0/8 that it connects to the host itself.
            IpAddr::V4(v4) => v4.is_loopback() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified(),
        };
        if METADATA.contains(&effective) {
            refused("the address of a metadata service")
        } else if is_link_local {
            refused("a link-local address")
        } else if effective.is_multicast() || effective == IpAddr::V4(Ipv4Addr::BROADCAST) {
            refused("an address of several hosts")
        } else if is_local && !self.loopback {
            refused("a loopback address, which a function does not connect to")
        } else {
            Ok(())
        }
    }

    /// Checks the host of a URL if it is an address; names are checked by [`CheckedResolver`].
    pub(super) fn check_host(self, host: &str) -> Result<(), ForbiddenAddress> {
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        match address.unwrap_or(host).parse() {
            Ok(address) => self.check(address),
            Err(_) => Ok(()),
        }
    }
}

/// Returns the IPv4 address that an IPv6 address stands for: mapped, compatible, by NAT64
/// (RFC 6052) or by 6to4 (RFC 3056).
fn embedded_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else {
        return None;
    };
    let v4 = |high: u16, low: u16| {
        let bits = u32::from(high) << 16 | u32::from(low);
        Some(Ipv4Addr::from_bits(bits))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            v4(high, low)
        }
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// The system's resolver, without the addresses that are not connected to.
///
/// A connection is made to one of the returned addresses, so that a name cannot get another
/// address between the check and the connection.
#[derive(Debug, Clone)]
pub(super) struct CheckedResolver {
    pub(super) policy: AddressPolicy,
    /// Host of the proxy, which the operator chose and which may have any address.
    pub(super) proxy: Option<String>,
}

impl ResolveDns for CheckedResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found = tokio::net::lookup_host((name, 0)).await;
            let found = found.map_err(ResolveDnsError::new)?.map(|at| at.ip());
            if self.proxy.as_deref() == Some(name) {
                return Ok(found.collect());
            }
            let mut refused = None;
            let allowed: Vec<_> = found
                .filter(|address| match self.policy.check(*address) {
                    Ok(()) => true,
                    Err(error) => {
                        refused.get_or_insert(error);
                        false
                    }
                })
                .collect();
            match refused {
                Some(error) if allowed.is_empty() => Err(ResolveDnsError::new(error)),
                _ => Ok(allowed),
            }
        })
    }
}

/// Returns the forbidden address in the causes of an error.
pub(super) fn forbidden_address(
    error: &(dyn std::error::Error + 'static),
) -> Option<ForbiddenAddress> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(*found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: AddressPolicy = AddressPolicy { loopback: false };
    const LOCAL: AddressPolicy = AddressPolicy { loopback: true };

    #[test]
    fn metadata_and_link_local_addresses_are_refused_in_every_form() {
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(LOCAL.check_host(host).is_err(), "{host} is refused");
            assert!(STRICT.check_host(host).is_err(), "{host} is refused");
        }
    }

    #[test]
    fn loopback_is_allowed_only_where_the_policy_says_so() {
        for host in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::7f00:1]",
        ] {
            assert!(STRICT.check_host(host).is_err(), "{host} is refused");
            assert!(LOCAL.check_host(host).is_ok(), "{host} is allowed");
        }
    }

    #[test]
    fn other_addresses_and_names_are_allowed() {
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "172.31.0.2",
            "93.184.216.34",
            "[2606:2800::1]",
            "[fd00::1]",
            "git.example.com",
        ] {
            assert_eq!(STRICT.check_host(host), Ok(()), "{host}");
        }
    }
}
