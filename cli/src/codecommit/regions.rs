//! Regions that have CodeCommit (November 2026), so that a mistyped one is named as such.

/// Regions by partition, as botocore lists them.
const REGIONS: &str = "af-south-1 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 \
     ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 ap-southeast-3 ca-central-1 eu-central-1 \
     eu-north-1 eu-south-1 eu-west-1 eu-west-2 eu-west-3 il-central-1 me-central-1 me-south-1 \
     sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2 cn-north-1 cn-northwest-1 us-gov-east-1 \
     us-gov-west-1";

/// Returns whether a region is known to have CodeCommit. A new region is not.
pub(super) fn has_codecommit(region: &str) -> bool {
    REGIONS.split(' ').any(|known| known == region)
}

/// Returns the domain of AWS in the partition of a region.
pub(super) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else if region.starts_with("eusc-") {
        "amazonaws.eu"
    } else {
        "amazonaws.com"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_known_by_its_whole_name() {
        assert!(has_codecommit("eu-west-1") && has_codecommit("us-gov-west-1"));
        assert!(!has_codecommit("eu-west-9") && !has_codecommit("west") && !has_codecommit(""));
        assert_eq!(domain("cn-north-1"), "amazonaws.com.cn");
        assert_eq!(domain("us-east-1"), "amazonaws.com");
    }
}
