//! Looks over a YAML text before the parser does: for anchors, aliases and tags, which serde never
//! shows, for a second document, and for nesting that would cost the parser too much.
//!
//! It follows the parser's own scanner (libyaml) token by token, knows as much of indentation as is
//! needed to tell where plain and block scalars end, and judges nothing else: what is no YAML at all,
//! the parser says.

/// What a look over a text has found. Places are line and column, from 1.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scan {
    /// the first anchor, alias, tag or tag directive: what it is, and where
    pub(super) indirection: Option<(&'static str, (usize, usize))>,
    /// where a second document begins
    pub(super) second: Option<(usize, usize)>,
    /// the most lists and maps open at once, as far as indents and brackets tell, and where
    pub(super) deepest: (usize, (usize, usize)),
    /// tokens but for commas and closing brackets: at least a third of the values, at most four for each
    pub(super) tokens: usize,
}

/// Looks over the text.
pub(super) fn scan(text: &str) -> Scan {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
        line: 0,
        column: 0,
        flow: 0,
        indents: vec![],
        indent: -1,
        key_allowed: true,
        key: None,
        begun: false,
        ended: false,
        scan: Scan::default(),
    };
    while scanner.token() {}
    scanner.scan
}

struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
    line: usize,
    column: isize,
    flow: usize,
    // columns of the open block collections below `indent`
    indents: Vec<isize>,
    indent: isize,
    // libyaml's simple keys, as far as they decide about indentation outside of flow collections
    key_allowed: bool,
    key: Option<(usize, usize, isize)>,
    // whether the current document has begun, and whether one has ended
    begun: bool,
    ended: bool,
    scan: Scan,
}

impl Scanner<'_> {
    fn byte(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    // length of the line break `ahead`; 0: none. The breaks of YAML 1.1, as libyaml has them
    fn line_break(&self, ahead: usize) -> usize {
        match self.bytes.get(self.at + ahead..).unwrap_or_default() {
            [b'\r', b'\n', ..] | [0xc2, 0x85, ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
            _ => 0,
        }
    }

    fn blank(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), b' ' | b'\t')
    }

    fn blank_or_end(&self, ahead: usize) -> bool {
        self.blank(ahead) || self.byte(ahead) == 0 || self.line_break(ahead) > 0
    }

    fn end(&self) -> bool {
        self.byte(0) == 0
    }

    fn skip(&mut self) {
        let newline = self.line_break(0);
        if newline > 0 {
            self.at += newline;
            self.line += 1;
            self.column = 0;
            return;
        }
        self.at += 1;
        while self.byte(0) & 0xc0 == 0x80 {
            self.at += 1;
        }
        self.column += 1;
    }

    fn skip_line(&mut self) {
        while !self.end() && self.line_break(0) == 0 {
            self.skip();
        }
    }

    fn place(&self) -> (usize, usize) {
        (self.line + 1, self.column.unsigned_abs() + 1)
    }

    fn marker(&self) -> bool {
        self.column == 0
            && matches!(self.bytes.get(self.at..self.at + 3), Some(b"---" | b"..."))
            && self.blank_or_end(3)
    }

    fn unroll(&mut self, column: isize) {
        while self.flow == 0 && self.indent > column {
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn roll(&mut self, column: isize) {
        if self.flow == 0 && self.indent < column {
            self.indents.push(self.indent);
            self.indent = column;
            self.deepen();
        }
    }

    fn deepen(&mut self) {
        let depth = self.indents.len() + self.flow;
        if depth > self.scan.deepest.0 {
            self.scan.deepest = (depth, self.place());
        }
    }

    fn save_key(&mut self) {
        if self.key_allowed && self.flow == 0 {
            self.key = Some((self.line, self.at, self.column));
        }
    }

    fn find(&mut self, what: &'static str) {
        let place = self.place();
        self.scan.indirection.get_or_insert((what, place));
    }

    // one token; false at the end of the text
    fn token(&mut self) -> bool {
        loop {
            while self.byte(0) == b' ' || self.byte(0) == b'\t' {
                self.skip();
            }
            if self.byte(0) == b'#' {
                self.skip_line();
            }
            if self.line_break(0) == 0 {
                break;
            }
            self.skip();
            self.key_allowed |= self.flow == 0;
        }
        self.unroll(self.column);
        if self.end() {
            return false;
        }
        if self.column == 0 && self.byte(0) == b'%' {
            if self.bytes[self.at..].starts_with(b"%TAG") {
                self.find("a tag directive");
            }
            self.unroll(-1);
            self.skip_line();
            return true;
        }
        if self.marker() {
            self.document();
            return true;
        }
        if self.ended && !self.begun {
            let place = self.place();
            self.scan.second.get_or_insert(place);
        }
        self.begun = true;
        self.scan.tokens += usize::from(!matches!(self.byte(0), b',' | b']' | b'}'));
        match self.byte(0) {
            b'[' | b'{' => {
                self.save_key();
                self.flow += 1;
                self.deepen();
                self.key_allowed = true;
                self.skip();
            }
            b']' | b'}' => {
                self.flow = self.flow.saturating_sub(1);
                self.key_allowed = false;
                self.skip();
            }
            b',' => {
                self.key_allowed = true;
                self.skip();
            }
            b'-' if self.blank_or_end(1) => self.entry(),
            b'?' if self.flow > 0 || self.blank_or_end(1) => self.entry(),
            b':' if self.flow > 0 || self.blank_or_end(1) => self.colon(),
            b'&' => self.property("an anchor"),
            b'*' => self.property("an alias"),
            b'!' => self.property("a tag"),
            b'|' | b'>' if self.flow == 0 => self.block_scalar(),
            quote @ (b'"' | b'\'') => self.quoted_scalar(quote),
            _ => self.plain_scalar(),
        }
        true
    }

    fn document(&mut self) {
        self.unroll(-1);
        let starts = self.byte(0) == b'-';
        if starts {
            if self.begun || self.ended {
                let place = self.place();
                self.scan.second.get_or_insert(place);
            }
            self.begun = true;
        } else {
            self.ended |= self.begun;
            self.begun = false;
        }
        self.key = None;
        self.key_allowed = false;
        (0..3).for_each(|_| self.skip());
    }

    fn entry(&mut self) {
        self.roll(self.column);
        self.key = self.key.filter(|_| self.flow > 0);
        self.key_allowed = true;
        self.skip();
    }

    fn colon(&mut self) {
        // libyaml forgets a simple key after its line or 1024 characters; bytes are near enough, since
        // the parser refuses what is longer
        let key = self.key.filter(|(line, _, _)| *line == self.line);
        if self.flow == 0 {
            match key {
                Some((_, _, column)) => self.roll(column),
                None => self.roll(self.column),
            }
            self.key_allowed = key.is_none();
            self.key = None;
        } else {
            self.key_allowed = false;
        }
        self.skip();
    }

    fn flow_indicator(&self) -> bool {
        self.flow > 0 && matches!(self.byte(0), b',' | b'[' | b']' | b'{' | b'}')
    }

    fn property(&mut self, what: &'static str) {
        self.find(what);
        self.save_key();
        self.key_allowed = false;
        self.skip();
        while !self.blank_or_end(0) && !self.flow_indicator() {
            self.skip();
        }
    }

    fn quoted_scalar(&mut self, quote: u8) {
        self.save_key();
        self.key_allowed = false;
        self.skip();
        while !self.end() {
            match self.byte(0) {
                b'\\' if quote == b'"' => {
                    self.skip();
                    if !self.end() {
                        self.skip();
                    }
                }
                b'\'' if quote == b'\'' && self.byte(1) == b'\'' => {
                    self.skip();
                    self.skip();
                }
                byte if byte == quote => {
                    self.skip();
                    return;
                }
                _ => self.skip(),
            }
        }
    }

    fn plain_scalar(&mut self) {
        self.save_key();
        self.key_allowed = false;
        let (start, indent) = (self.at, self.indent + 1);
        loop {
            if self.marker() || self.byte(0) == b'#' {
                break;
            }
            while !self.blank_or_end(0) {
                if self.flow_indicator() || (self.byte(0) == b':' && self.blank_or_end(1)) {
                    break;
                }
                self.skip();
            }
            if self.end() || !self.blank_or_end(0) {
                break;
            }
            while self.blank(0) || self.line_break(0) > 0 {
                self.key_allowed |= self.line_break(0) > 0;
                self.skip();
            }
            if self.flow == 0 && self.column < indent {
                break;
            }
        }
        if self.at == start {
            self.skip(); // a character that begins no token: the parser will say so
        }
    }

    fn block_scalar(&mut self) {
        self.key = None;
        self.key_allowed = true;
        self.skip();
        let mut indent = 0;
        while matches!(self.byte(0), b'+' | b'-' | b'0'..=b'9') {
            if self.byte(0).is_ascii_digit() {
                indent = self.indent.max(0) + isize::from(self.byte(0) - b'0');
            }
            self.skip();
        }
        self.skip_line();
        if !self.end() {
            self.skip();
        }
        if indent == 0 {
            let mut widest = 0;
            loop {
                while self.byte(0) == b' ' {
                    self.skip();
                }
                widest = widest.max(self.column);
                if self.line_break(0) == 0 {
                    break;
                }
                self.skip();
            }
            indent = widest.max(self.indent + 1).max(1);
        }
        loop {
            while self.column < indent && self.byte(0) == b' ' {
                self.skip();
            }
            if self.line_break(0) > 0 {
                self.skip();
            } else if self.column < indent || self.end() {
                return;
            } else {
                self.skip_line();
            }
        }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
