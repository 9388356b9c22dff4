//! Finds what looks like personal data in the text of a message, before it is signed.
//!
//! It finds numbers of fixed shape, which is what people paste by mistake. It is a guard rail, no
//! proof: a name passes.

/// Tells what the text seems to hold, or `None`.
///
/// Shapes: resident identity number (18 characters, GB 11643 check digit), mobile telephone number
/// (11 digits from 13 to 19, with or without `+86`), mail address.
pub fn find(text: &str) -> Option<&'static str> {
    for token in text.split(|character: char| !(character.is_ascii_alphanumeric())) {
        if is_identity_number(token) {
            return Some("a resident identity number");
        }
    }
    for run in text.split(|character: char| !(character.is_ascii_digit())) {
        let run = run.strip_prefix("86").filter(|rest| rest.len() == 11).unwrap_or(run);
        if is_mobile_number(run) {
            return Some("a mobile telephone number");
        }
    }
    text.split_whitespace().any(is_mail_address).then_some("a mail address")
}

fn is_identity_number(token: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    const CHECKS: &[u8; 11] = b"10X98765432";
    let bytes = token.as_bytes();
    if bytes.len() != 18 || !bytes[..17].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 =
        bytes.iter().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    CHECKS.get((sum % 11) as usize) == Some(&bytes[17].to_ascii_uppercase())
}

fn is_mobile_number(run: &str) -> bool {
    let bytes = run.as_bytes();
    bytes.len() == 11 && bytes[0] == b'1' && (b'3'..=b'9').contains(&bytes[1])
}

fn is_mail_address(word: &str) -> bool {
    word.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty()
            && host.split_once('.').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_people_are_found() {
        assert!(find("身份证11010519491231002X。").is_some());
        assert!(find("电话：13812345678").is_some());
        assert!(find("+8613812345678").is_some());
        assert!(find("write to a.b@example.org today").is_some());
    }

    #[test]
    fn numbers_of_cases_and_units_pass() {
        for text in ["〔2026〕17号", "case 101000295613", "unit 310101002003", "110105194912310021"]
        {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
