//! Texts that mean a duration, a size or an address: parsed strictly, written back the same way. Knows no key.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::problem::Fault;
use super::settings::ListenAddress;

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// Reads `250ms`, `10s`, `1h30m`: whole numbers with units, largest unit first, each once.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Fault> {
    let not_one = || Fault::new("not a duration").hint("the units are d, h, m, s and ms, such as \"10s\" or \"1h30m\"");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::new("a duration needs a unit").hint(format!("write \"{text}s\" or \"{text}ms\"")));
    }
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        // The iterator is shared by all rounds: a unit that comes twice or too late is no longer in it.
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(not_one)?;
        let count: u64 = number.parse().map_err(|_| not_one())?;
        let part = count.checked_mul(*factor).ok_or_else(|| Fault::new("too long a duration"))?;
        millis = millis.checked_add(part).ok_or_else(|| Fault::new("too long a duration"))?;
        rest = after;
    }
    if text.is_empty() { Err(not_one()) } else { Ok(Duration::from_millis(millis)) }
}

/// Writes a duration as [`parse_duration`] reads it; finer parts than a millisecond are cut.
pub(super) fn write_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        if rest >= factor {
            text.push_str(&(rest / factor).to_string());
            text.push_str(unit);
            rest %= factor;
        }
    }
    text
}

/// Reads `16MiB`, `64KiB`, `1024B` or a bare number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let count: u64 = number.parse().map_err(|_| Fault::new("not a size").hint("write \"16MiB\""))?;
    if unit.is_empty() {
        return Ok(count);
    }
    let Some((_, shift)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(Fault::new("not a size").hint("the units are B, KiB, MiB, GiB and TiB, such as \"16MiB\""));
    };
    count.checked_mul(1 << shift).ok_or_else(|| Fault::new("too large a size"))
}

/// Writes a size as [`parse_size`] reads it, in the largest unit that divides it.
pub(super) fn write_size(bytes: u64) -> String {
    let fits = |shift: u32| bytes > 0 && bytes.trailing_zeros() >= shift;
    let (unit, shift) = SIZE_UNITS.iter().find(|(_, shift)| fits(*shift)).unwrap_or(&("B", 0));
    format!("{}{unit}", bytes >> shift)
}

/// Reads `host:port`, `[ipv6]:port` or `off`.
pub(super) fn parse_address(text: &str) -> Result<Option<ListenAddress>, Fault> {
    const FORM: &str = "write \"127.0.0.1:7672\", \"[::1]:7672\" or \"off\"";
    if text == "off" {
        return Ok(None);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| Fault::new("an address needs a port").hint(FORM))?;
    let port: u16 = port.parse().map_err(|_| Fault::new("the port must be 0 to 65535").hint(FORM))?;
    if host.is_empty() || host == "*" {
        let hint = format!("\"0.0.0.0:{port}\" is every address of this host");
        return Err(Fault::new("an address needs a host").hint(hint));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let inner: Ipv6Addr = inner.parse().map_err(|_| Fault::new("not an IPv6 address").hint(FORM))?;
        return Ok(Some(ListenAddress { host: inner.to_string(), port }));
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(Fault::new("an IPv6 address needs brackets").hint(format!("write \"[{host}]:{port}\"")));
    }
    if host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        Ok(Some(ListenAddress { host: host.to_owned(), port }))
    } else {
        Err(Fault::new("not an address").hint(FORM))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("720h", 2_592_000_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "10 s",
            "-1s",
            "30m1h",
            "1s1s",
            "10S",
            "1w",
            "99999999999999999999s",
            "99999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bare_number_is_told_to_take_a_unit() {
        let hint = parse_duration("10").unwrap_err().hint;
        assert_eq!(hint.as_deref(), Some("write \"10s\" or \"10ms\""));
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in
            [("16MiB", 16 << 20), ("64KiB", 65_536), ("1024", 1_024), ("7B", 7), ("0", 0), ("1TiB", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "16MB", "16 MiB", "MiB", "-1", "1.5MiB", "99999999999999TiB", "16mib"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let address = |host: &str, port| Ok(Some(ListenAddress { host: host.to_owned(), port }));
        assert_eq!(parse_address("127.0.0.1:7672"), address("127.0.0.1", 7672));
        assert_eq!(parse_address("localhost:0"), address("localhost", 0));
        assert_eq!(parse_address("[::1]:80"), address("::1", 80));
        assert_eq!(parse_address("off"), Ok(None));
        for text in
            ["", ":7672", "*:1", "localhost", "::1:80", "[::1]", "[x]:1", "a:65536", "http://a:1", "a b:1", "OFF"]
        {
            assert!(parse_address(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_the_same(millis in 0..=u64::from(u32::MAX) * 1_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&write_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_reads_the_same(bytes in any::<u64>(), shift in 0_u32..50) {
            let bytes = (bytes >> shift) << (shift / 2);
            prop_assert_eq!(parse_size(&write_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_written_address_reads_the_same(host in "[a-z][a-z0-9.-]{0,20}", port in any::<u16>(), v6 in any::<u128>()) {
            for host in [host, Ipv6Addr::from(v6).to_string()] {
                let address = ListenAddress { host, port };
                prop_assert_eq!(parse_address(&address.to_string()), Ok(Some(address)));
            }
        }

        #[test]
        fn no_text_stops_the_parsers(text in "\\PC{0,24}") {
            let read = (parse_duration(&text), parse_size(&text), parse_address(&text));
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            prop_assert!(!is_number || read.0.is_err());
        }
    }
}
