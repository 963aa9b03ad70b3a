//! Rust source as tokens with line numbers: enough to find words outside of comments and strings, to match
//! braces, and to know which of them only tests compile. Not a parser: what it cannot tell apart it leaves whole.

use std::ops::Range;

/// A word (identifier, keyword, number) or one punctuation character. A string or character literal is `""`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    /// Counted from one; where the token begins.
    pub line: usize,
}

/// The tokens of one source text.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    while let Some(c) = lexer.peek() {
        lexer.step(c);
    }
    lexer.tokens
}

/// Whether `tokens[at..]` begins with these texts.
pub fn matches_at(tokens: &[Token<'_>], at: usize, texts: &[&str]) -> bool {
    tokens.len() >= at + texts.len()
        && texts.iter().zip(&tokens[at..]).all(|(text, token)| *text == token.text)
}

/// The index of the bracket that closes the one at `open`, or the last token's if the text ends before.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

/// The token ranges that stand behind `#[cfg(test)]` and have a body in braces.
pub fn test_bodies(tokens: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut bodies = Vec::new();
    for at in 0..tokens.len() {
        if !matches_at(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            continue;
        }
        let mut next = at + 7;
        while matches_at(tokens, next, &["#", "["]) {
            next = closing(tokens, next + 1) + 1;
        }
        let end = tokens
            .iter()
            .skip(next)
            .position(|token| matches!(token.text, "{" | ";"))
            .map(|found| next + found);
        if let Some(open) = end
            && tokens[open].text == "{"
        {
            bodies.push(at..closing(tokens, open) + 1);
        }
    }
    bodies
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.rest()[..bytes];
        self.line += skipped.bytes().filter(|byte| *byte == b'\n').count();
        self.at += bytes;
    }

    fn push(&mut self, text: &'a str) {
        self.tokens.push(Token { text, line: self.line });
    }

    fn step(&mut self, c: char) {
        if self.rest().starts_with("//") {
            let length = self.rest().find('\n').unwrap_or(self.rest().len());
            self.skip(length);
        } else if self.rest().starts_with("/*") {
            self.skip_block_comment();
        } else if c == '"' {
            self.skip_string();
        } else if c == '\'' {
            self.skip_char_or_lifetime();
        } else if is_word(c) {
            self.word();
        } else {
            if !c.is_whitespace() {
                self.push(&self.rest()[..c.len_utf8()]);
            }
            self.skip(c.len_utf8());
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        while !self.rest().is_empty() {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.peek().map_or(1, char::len_utf8));
            }
        }
    }

    fn skip_string(&mut self) {
        self.push("\"\"");
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        self.skip(end.map_or(self.rest().len(), |(at, _)| at + 1));
    }

    /// `'a'`, `'\n'` and `'\''` are literals; `'a` is a lifetime and vanishes whole, so that `'static` is no word.
    fn skip_char_or_lifetime(&mut self) {
        let mut chars = self.rest().char_indices().skip(1);
        let first = chars.next();
        let second = chars.next();
        if matches!(first, Some((_, '\\'))) {
            self.push("\"\"");
            let end = self.rest().char_indices().skip(3).find(|(_, c)| *c == '\'');
            self.skip(end.map_or(self.rest().len(), |(at, _)| at + 1));
        } else if let Some((at, '\'')) = second {
            self.push("\"\"");
            self.skip(at + 1);
        } else {
            let length = self.rest().char_indices().skip(1).find(|(_, c)| !is_word(*c)).map(|(at, _)| at);
            self.skip(length.unwrap_or(self.rest().len()));
        }
    }

    fn word(&mut self) {
        let rest = self.rest();
        let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
        let raw = matches!(word, "r" | "br" | "cr") && after[hashes..].starts_with('"');
        if raw {
            self.push("\"\"");
            let close = format!("\"{}", "#".repeat(hashes));
            let body = length + hashes + 1;
            let end = rest[body..].find(&close).map_or(rest.len(), |found| body + found + close.len());
            self.skip(end);
        } else if matches!(word, "b" | "c") && after.starts_with('"') {
            self.skip(length);
            self.skip_string();
        } else {
            self.push(word);
            self.skip(length);
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_strings_hide_their_words() {
        assert_eq!(words("a // async\n/* await /* tokio */ rand */ b"), ["a", "b"]);
        assert_eq!(
            words(r#"f("async \" await", b"tokio", 'x')"#),
            ["f", "(", "\"\"", ",", "\"\"", ",", "\"\"", ")"]
        );
        assert_eq!(words(r###"r#"async " await"# end r"x" br##"y"##"###), ["\"\"", "end", "\"\"", "\"\""]);
    }

    #[test]
    fn lifetimes_and_escaped_quotes_do_not_open_a_literal() {
        assert_eq!(words("fn f<'a>(x: &'a str) {}").len(), words("fn f<>(x: & str) {}").len());
        assert_eq!(words(r"'\'' async '\u{41}' b'\\' c"), ["\"\"", "async", "\"\"", "b", "\"\"", "c"]);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let source = "a\n\"two\nlines\" b\n/* one\ntwo */ c";
        let lines: Vec<usize> = tokens(source).iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 3, 5]);
    }

    #[test]
    fn a_test_module_is_found_whole() {
        let source = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { c(); } }\nfn d() {}";
        let tokens = tokens(source);
        let bodies = test_bodies(&tokens);
        assert_eq!(bodies.len(), 1);
        let inside: Vec<&str> = tokens[bodies[0].clone()].iter().map(|token| token.text).collect();
        assert!(inside.contains(&"c") && !inside.contains(&"a") && !inside.contains(&"d"));
    }

    #[test]
    fn a_test_module_in_its_own_file_has_no_body_here() {
        let tokens = tokens("#[cfg(test)]\nmod tests;\nfn d() { e(); }");
        assert_eq!(test_bodies(&tokens), []);
    }
}
