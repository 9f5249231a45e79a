//! Exact equality of JSON numbers of any length (RFC 6902, section 4.6: "numerically equal"). It compares digits, never
//! floats. Exponents are compared, not expanded: `1e999999999` takes no more memory than its text.

/// Longest exponent computed as an `i128`, in digits. Longer ones are computed as text.
const EXPONENT_DIGITS_MAX: usize = 36;

/// Whether two JSON numbers have the same value, such as `1`, `1.0` and `10e-1`, or `0` and `-0.0e9`.
pub fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (Decimal::of(a), Decimal::of(b));
    if a.significant == 0 || b.significant == 0 {
        return a.significant == b.significant;
    }
    a.negative == b.negative
        && a.significant == b.significant
        && a.point_equals(&b)
        && a.digits().eq(b.digits())
}

/// A number as `0.DIGITS * 10^(exponent + shift)`, whose digits neither begin nor end with a zero.
struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    /// Zeros before the first significant digit.
    leading: usize,
    /// The number of significant digits.
    significant: usize,
    exponent_negative: bool,
    /// Without leading zeros.
    exponent: &'a str,
    shift: i128,
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, ""));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let (exponent_negative, exponent) = match exponent.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        let digits = whole.len() + fraction.len();
        let leading = whole.bytes().chain(fraction.bytes()).take_while(|digit| *digit == b'0').count();
        let trailing = fraction.bytes().rev().chain(whole.bytes().rev()).take_while(|digit| *digit == b'0');
        Self {
            negative,
            whole,
            fraction,
            leading,
            // Zero has no significant digits, however it is written.
            significant: if leading == digits { 0 } else { digits - leading - trailing.count() },
            exponent_negative,
            exponent: exponent.trim_start_matches('0'),
            shift: whole.len() as i128 - leading as i128,
        }
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.whole.bytes().chain(self.fraction.bytes()).skip(self.leading).take(self.significant)
    }

    /// Whether the decimal points are at the same position.
    fn point_equals(&self, other: &Self) -> bool {
        match (self.small_point(), other.small_point()) {
            (Some(here), Some(there)) => here == there,
            _ => self.point_text() == other.point_text(),
        }
    }

    fn small_point(&self) -> Option<i128> {
        if self.exponent.len() > EXPONENT_DIGITS_MAX {
            return None;
        }
        let exponent: i128 = if self.exponent.is_empty() { 0 } else { self.exponent.parse().ok()? };
        Some(if self.exponent_negative { self.shift - exponent } else { self.shift + exponent })
    }

    /// The position of the point as text. An exponent this long is far larger than the shift, so it decides the sign.
    fn point_text(&self) -> String {
        if let Some(point) = self.small_point() {
            return point.to_string();
        }
        let mut carry = if self.exponent_negative { -self.shift } else { self.shift };
        let mut digits: Vec<u8> = self.exponent.bytes().map(|digit| digit - b'0').collect();
        for digit in digits.iter_mut().rev() {
            let sum = i128::from(*digit) + carry;
            *digit = sum.rem_euclid(10) as u8;
            carry = sum.div_euclid(10);
        }
        let sign = if self.exponent_negative { "-" } else { "" };
        let front = if carry == 0 { String::new() } else { carry.to_string() };
        let digits: String = digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        format!("{sign}{}", format!("{front}{digits}").trim_start_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_by_value_however_they_are_written() {
        let nines = "9".repeat(36);
        let (below, above) = (format!("10e{nines}"), format!("1e1{}", "0".repeat(36)));
        let long = format!("1{}", "0".repeat(40));
        let (tiny, tinier) = (format!("1e-{long}"), format!("0.1e-{}", "9".repeat(40)));
        for (a, b) in [
            ("1", "1.0"),
            ("100", "1E2"),
            ("100", "1e+2"),
            ("-0", "0"),
            ("0e99999999999999999999999999999999999999999999", "-0.000"),
            ("0.001", "1e-3"),
            ("-12.50", "-125e-1"),
            ("1e0000000000000000000000000000000000000000000000000002", "100"),
            ("12345678901234567890123456789012345678901.0", "12345678901234567890123456789012345678901"),
            ("1e999999999", "10e999999998"),
            (&below, &above),
            (&tiny, &tinier),
        ] {
            assert!(equal(a, b) && equal(b, a), "{a} = {b}");
        }
        for (a, b) in [
            ("1", "-1"),
            ("1", "1.0000000000000000000000000000001"),
            ("9007199254740993", "9007199254740992"),
            ("1e999999999", "1e999999998"),
            ("1e999999999", "1e-999999999"),
            ("0", "1e-999999999"),
            ("0.1", "0.01"),
            ("10", "1"),
            (&tiny, &above),
            (&tiny, "0.1"),
        ] {
            assert!(!equal(a, b) && !equal(b, a), "{a} is not {b}");
        }
    }
}
