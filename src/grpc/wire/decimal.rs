//! Exact decimal numbers between text and AMQP's scale and value. Knows no header.

/// Longest decimal text from a caller, in bytes.
const TEXT_BYTES_MAX: usize = 64;
/// AMQP 0-9-1 writes the value in four bytes and calls it signed; brokers and clients agree on the lower half only.
const VALUE_MAX: u64 = i32::MAX as u64;

/// A number as text, with as many digits after the point as its scale.
pub(super) fn to_text(scale: u8, value: u32) -> String {
    let scale = usize::from(scale);
    if scale == 0 {
        return value.to_string();
    }
    let digits = format!("{value:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{whole}.{fraction}")
}

/// Scale and value of a text.
///
/// # Errors
/// Why AMQP cannot carry it exactly.
pub(super) fn from_text(text: &str) -> Result<(u8, u32), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len()));
    }
    if text.starts_with('-') {
        return Err("is negative, which AMQP's decimals cannot be".to_owned());
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((_, "")) => return Err("has no digit after the point".to_owned()),
        Some(parts) => parts,
        None => (unsigned, ""),
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return Err("is not a decimal number: digits, an optional sign and an optional point".to_owned());
    }
    let too_large = || format!("has more digits than AMQP carries: without its point it must be at most {VALUE_MAX}");
    let value = format!("{whole}{fraction}").parse::<u64>().ok().filter(|value| *value <= VALUE_MAX);
    let value = value.and_then(|value| u32::try_from(value).ok()).ok_or_else(too_large)?;
    // At most 64 bytes of text, so the scale always fits.
    let scale = u8::try_from(fraction.len()).map_err(|_| too_large())?;
    Ok((scale, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_shows_as_many_digits_as_its_scale() {
        for (scale, value, text) in
            [(0, 0, "0"), (2, 1250, "12.50"), (2, 5, "0.05"), (3, 0, "0.000"), (0, u32::MAX, "4294967295")]
        {
            assert_eq!(to_text(scale, value), text);
        }
        assert_eq!(to_text(255, 1).len(), 257);
    }

    #[test]
    fn only_what_amqp_carries_exactly_is_taken() {
        for (text, expected) in
            [("12.50", (2, 1250)), ("+7", (0, 7)), ("0.000", (3, 0)), ("2147483647", (0, 2_147_483_647))]
        {
            assert_eq!(from_text(text), Ok(expected), "{text}");
        }
        for text in ["", ".", "5.", ".5", "-1", "+", "1e3", "1.2.3", "2147483648", "9223372036854775808", "٣", "+-1"] {
            assert!(from_text(text).is_err(), "{text:?}");
        }
        assert!(from_text(&format!("0.{}", "0".repeat(62))).is_ok());
        assert!(from_text(&format!("0.{}", "0".repeat(63))).is_err());
    }
}
