//! Patterns over keys: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`, and a backslash before a character that stands for itself.
//! Never backtracks over more than the last `*`, so a match costs at most the product of the two lengths.

use crate::error::Error;
use crate::key::LONGEST_KEY_BYTES;

/// A pattern that was read.
///
/// ```
/// let glob = tezkor::Glob::new("product:*:[0-9]?")?;
/// assert!(glob.matches("product:list:7a"));
/// assert!(!glob.matches("product:list:a7"));
/// # Ok::<(), tezkor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Glob {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Star,
    Any,
    Letter(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Reads a pattern. A bracket that is not closed stands for itself, as in a shell.
    ///
    /// # Errors
    ///
    /// When it is longer than a key may be: 8 KiB.
    pub fn new(pattern: &str) -> Result<Glob, Error> {
        if pattern.len() > LONGEST_KEY_BYTES {
            return Err(Error::setting(format!(
                "a pattern of {} bytes is longer than {LONGEST_KEY_BYTES}, the longest key: shorten it",
                pattern.len()
            )));
        }
        let letters: Vec<char> = pattern.chars().collect();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < letters.len() {
            let (part, next) = match letters[at] {
                '*' => (Part::Star, at + 1),
                '?' => (Part::Any, at + 1),
                '\\' if at + 1 < letters.len() => (Part::Letter(letters[at + 1]), at + 2),
                '[' => class(&letters, at + 1).unwrap_or((Part::Letter('['), at + 1)),
                letter => (Part::Letter(letter), at + 1),
            };
            if !(matches!(part, Part::Star) && matches!(parts.last(), Some(Part::Star))) {
                parts.push(part);
            }
            at = next;
        }
        Ok(Glob { parts })
    }

    /// Whether the pattern has a part that stands for more than one text.
    pub fn is_pattern(text: &str) -> bool {
        Glob::new(text).is_ok_and(|glob| glob.parts.iter().any(|part| !matches!(part, Part::Letter(_))))
    }

    /// The text that every match begins with.
    pub fn literal_head(&self) -> String {
        let letters =
            self.parts.iter().map_while(|part| if let Part::Letter(letter) = part { Some(letter) } else { None });
        letters.collect()
    }

    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        let (mut part, mut rest) = (0, text);
        // Where to go on when what follows the last star does not fit: one letter further.
        let mut retry: Option<(usize, &str)> = None;
        loop {
            let letter = rest.chars().next();
            match (self.parts.get(part), letter) {
                (Some(Part::Star), _) => {
                    part += 1;
                    retry = Some((part, rest));
                    continue;
                }
                (Some(step), Some(letter)) if step.fits(letter) => {
                    part += 1;
                    rest = &rest[letter.len_utf8()..];
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((after, from)) = retry else { return false };
            let Some(skipped) = from.chars().next() else { return false };
            rest = &from[skipped.len_utf8()..];
            part = after;
            retry = Some((after, rest));
        }
    }
}

impl Part {
    fn fits(&self, letter: char) -> bool {
        match self {
            Part::Star => false,
            Part::Any => true,
            Part::Letter(own) => *own == letter,
            Part::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *negated
            }
        }
    }
}

/// The class after an opening bracket, and where it ends; `None` when it is not closed.
fn class(letters: &[char], start: usize) -> Option<(Part, usize)> {
    let negated = matches!(letters.get(start), Some('!' | '^'));
    let first = start + usize::from(negated);
    let (mut at, mut ranges) = (first, Vec::new());
    loop {
        let mut letter = *letters.get(at)?;
        // A closing bracket that comes first stands for itself.
        if letter == ']' && at > first {
            return Some((Part::Class { negated, ranges }, at + 1));
        }
        if letter == '\\' {
            at += 1;
            letter = *letters.get(at)?;
        }
        let end = (letters.get(at + 1) == Some(&'-')).then(|| letters.get(at + 2)).flatten();
        match end {
            Some(end) if *end != ']' => {
                ranges.push((letter, *end));
                at += 3;
            }
            _ => {
                ranges.push((letter, letter));
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything:at all", true),
            ("user:*", "user:", true),
            ("user:*", "user", false),
            ("*:7", "a:7:7", true),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzz", false),
            ("a**c", "abc", true),
            ("?", "ü", true),
            ("?", "", false),
            ("?", "ab", false),
            ("[abc]x", "bx", true),
            ("[abc]x", "dx", false),
            ("[!abc]x", "dx", true),
            ("[^abc]x", "ax", false),
            ("[a-c0-9]", "5", true),
            ("[a-c0-9]", "d", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[\\]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\[a]", "[a]", true),
            ("[abc", "[abc", true),
            ("a\\", "a\\", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Glob::new(pattern).expect("short").matches(text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_do_not_cost_for_ever() {
        let glob = Glob::new(&("a*".repeat(100) + "b")).expect("short");
        assert!(!glob.matches(&"a".repeat(5_000)));
        assert!(glob.matches(&("a".repeat(5_000) + "b")));
    }

    #[test]
    fn a_pattern_that_is_too_long_says_so() {
        let error = Glob::new(&"x".repeat(LONGEST_KEY_BYTES + 1)).expect_err("too long");
        assert!(error.to_string().contains("shorten it"), "{error}");
    }

    #[test]
    fn what_is_a_pattern_and_what_is_not() {
        assert!(["a*", "?", "[ab]"].iter().all(|text| Glob::is_pattern(text)));
        assert!(!["", "a", "\\*", "[ab"].iter().any(|text| Glob::is_pattern(text)));
        assert_eq!(Glob::new("ab\\*c[de]").expect("short").literal_head(), "ab*c");
    }
}
