//! A value as a Rust service sees it. Every value that reads writes back to an equal one.

use super::moment::{self, Zone};
use super::reader::{Error, Reader, Token};
use super::writer::Writer;
use super::{FOLD, SHAPE_RELATED, ext};

/// A clock reading, with its zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// 0 to 23
    pub hour: u8,
    /// 0 to 59
    pub minute: u8,
    /// 0 to 59
    pub second: u8,
    /// 0 to 999 999
    pub microsecond: u32,
    /// The second of two equal wall-clock times.
    pub fold: bool,
    /// Where the clock hangs.
    pub zone: Zone<String>,
}

/// A day and a clock reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// 1 to 9999
    pub year: u16,
    /// 1 to 12
    pub month: u8,
    /// 1 to 31
    pub day: u8,
    /// The clock.
    pub time: Moment,
}

/// What all rows of a table of model instances have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The application's label.
    pub app_label: String,
    /// The model's name.
    pub model: String,
    /// A hash of the model's fields when the value was written.
    pub fingerprint: [u8; 16],
    /// `SHAPE_...`
    pub flags: u64,
    /// The database alias that the instances came from.
    pub database: Option<String>,
    /// The attributes of each instance.
    pub names: Vec<String>,
}

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// 0 `HttpResponse`, 1 `SimpleTemplateResponse`, 2 `TemplateResponse`
    pub kind: u64,
    /// `Nil` (200) or an integer.
    pub status: Box<Value>,
    /// `Nil` (the usual words for the status) or a text.
    pub reason: Box<Value>,
    /// `Nil` (that of the content type) or a text.
    pub charset: Box<Value>,
    /// Names and values, in turn.
    pub headers: Vec<String>,
    /// Name, key, value, coded value and attributes of each cookie.
    pub cookies: Vec<[Value; 5]>,
    /// The body, in pieces.
    pub body: Vec<Vec<u8>>,
    /// Other attributes.
    pub attributes: Box<Value>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    /// An integer above `i64::MAX`, as other MessagePack writers write it.
    Uint(u64),
    /// Two's complement, little endian.
    BigInt(Vec<u8>),
    Float(f64),
    Str(String),
    /// UTF-8 that also encodes surrogates.
    Surrogates(Vec<u8>),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Set(Vec<Value>),
    FrozenSet(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Date {
        year: u16,
        month: u8,
        day: u8,
    },
    Time(Moment),
    DateTime(DateTime),
    TimeDelta {
        days: i32,
        seconds: u32,
        microseconds: u32,
    },
    /// As text.
    Decimal(String),
    Uuid([u8; 16]),
    Safe(String),
    /// A list of dicts with the same keys: columns, then cells row by row.
    Rows(Vec<Value>, Vec<Value>),
    /// A list of tuples of the same width: width, then cells row by row.
    Tuples(usize, Vec<Value>),
    /// Django model instances: the shape's number, the shape where it is new, whether it is one instance that is not in
    /// a list, cells row by row.
    Models {
        number: u64,
        shape: Option<Box<Shape>>,
        single: bool,
        cells: Vec<Value>,
    },
    Response(Box<Response>),
}

impl Value {
    /// Reads a whole payload of codec [`super::CODEC_TAGGED`].
    pub fn read(payload: &[u8]) -> Result<Self, Error> {
        let mut parser = Parser { widths: Vec::new() };
        let mut reader = Reader::new(payload);
        let value = parser.value(&mut reader, 0)?;
        reader.finish()?;
        Ok(value)
    }

    /// Writes the payload.
    pub fn write(&self, out: &mut Writer) {
        let mut widths = Vec::new();
        put(self, out, &mut widths);
    }
}

/// Remembers, for each shape, how many cells a row has.
struct Parser {
    widths: Vec<usize>,
}

impl Parser {
    fn value(&mut self, reader: &mut Reader<'_>, depth: u32) -> Result<Value, Error> {
        Ok(match reader.token()? {
            Token::Nil => Value::Nil,
            Token::Bool(value) => Value::Bool(value),
            Token::Int(value) => Value::Int(value),
            Token::Uint(value) => Value::Uint(value),
            Token::Float(value) => Value::Float(value),
            Token::Str(bytes) => Value::Str(text(bytes)?),
            Token::Bin(bytes) => Value::Bytes(bytes.to_vec()),
            Token::Array(count) => Value::List(self.values(reader, count, Reader::deeper(depth)?)?),
            Token::Map(count) => Value::Dict(self.pairs(reader, count, Reader::deeper(depth)?)?),
            Token::Ext(kind, payload) => self.extension(kind, payload, Reader::deeper(depth)?)?,
        })
    }

    /// The count comes from the input and is bounded by its length; the vector grows as values are really there.
    fn values(&mut self, reader: &mut Reader<'_>, count: usize, depth: u32) -> Result<Vec<Value>, Error> {
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(reader, depth)?);
        }
        Ok(values)
    }

    fn pairs(&mut self, reader: &mut Reader<'_>, count: usize, depth: u32) -> Result<Vec<(Value, Value)>, Error> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.value(reader, depth)?, self.value(reader, depth)?));
        }
        Ok(pairs)
    }

    fn extension(&mut self, kind: i8, payload: &[u8], depth: u32) -> Result<Value, Error> {
        let mut reader = Reader::new(payload);
        let value = match kind {
            ext::TUPLE | ext::SET | ext::FROZENSET => {
                let count = reader.expect_array()?;
                let values = self.values(&mut reader, count, depth)?;
                match kind {
                    ext::TUPLE => Value::Tuple(values),
                    ext::SET => Value::Set(values),
                    _ => Value::FrozenSet(values),
                }
            }
            ext::ROWS => {
                let width = reader.expect_array()?;
                let columns = self.values(&mut reader, width, depth)?;
                let rows = reader.expect_rows(width)?;
                Value::Rows(columns, self.values(&mut reader, rows * width, depth)?)
            }
            ext::TUPLES => {
                let width = usize::try_from(reader.expect_uint()?).map_err(|_| Error::Damaged)?;
                let rows = reader.expect_rows(width)?;
                Value::Tuples(width, self.values(&mut reader, rows * width, depth)?)
            }
            ext::MODELS => self.models(&mut reader, depth)?,
            ext::RESPONSE => self.response(&mut reader, depth)?,
            _ => return leaf(kind, payload),
        };
        reader.finish()?;
        Ok(value)
    }

    fn models(&mut self, reader: &mut Reader<'_>, depth: u32) -> Result<Value, Error> {
        let number = reader.expect_uint()?;
        let seen = self.widths.len();
        let index = usize::try_from(number).ok().filter(|index| *index <= seen).ok_or(Error::Damaged)?;
        let mut shape = None;
        if index == seen {
            let new = Shape::read(reader)?;
            self.widths.push(new.width());
            shape = Some(Box::new(new));
        }
        let width = self.widths[index];
        let mut ahead = reader.clone();
        let single = matches!(ahead.token()?, Token::Nil);
        let rows = if single {
            *reader = ahead;
            1
        } else {
            reader.expect_rows(width)?
        };
        let cells = self.values(reader, rows * width, depth)?;
        Ok(Value::Models { number, shape, single, cells })
    }

    fn response(&mut self, reader: &mut Reader<'_>, depth: u32) -> Result<Value, Error> {
        if reader.expect_array()? != 7 {
            return Err(Error::Damaged);
        }
        let kind = reader.expect_uint()?;
        let status = Box::new(self.value(reader, depth)?);
        let reason = Box::new(self.value(reader, depth)?);
        let charset = Box::new(self.value(reader, depth)?);
        let mut headers = Vec::new();
        for _ in 0..reader.expect_array()? {
            headers.push(reader.expect_str()?.to_owned());
        }
        let count = reader.expect_array()?;
        if !headers.len().is_multiple_of(2) || !count.is_multiple_of(5) {
            return Err(Error::Damaged);
        }
        let mut cookies = Vec::new();
        for _ in 0..count / 5 {
            let mut cookie = [const { Value::Nil }; 5];
            for part in &mut cookie {
                *part = self.value(reader, depth)?;
            }
            cookies.push(cookie);
        }
        let mut body = Vec::new();
        for _ in 0..reader.expect_array()? {
            match reader.token()? {
                Token::Bin(bytes) => body.push(bytes.to_vec()),
                _ => return Err(Error::Damaged),
            }
        }
        let attributes = Box::new(self.value(reader, depth)?);
        Ok(Value::Response(Box::new(Response { kind, status, reason, charset, headers, cookies, body, attributes })))
    }
}

impl Shape {
    /// Reads a shape where one is new.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.expect_array()? != 6 {
            return Err(Error::Damaged);
        }
        let app_label = reader.expect_str()?.to_owned();
        let model = reader.expect_str()?.to_owned();
        let fingerprint = match reader.token()? {
            Token::Bin(bytes) => bytes.try_into().map_err(|_| Error::Damaged)?,
            _ => return Err(Error::Damaged),
        };
        let flags = reader.expect_uint()?;
        let database = match reader.token()? {
            Token::Nil => None,
            Token::Str(bytes) => Some(text(bytes)?),
            _ => return Err(Error::Damaged),
        };
        let mut names = Vec::new();
        for _ in 0..reader.expect_array()? {
            names.push(reader.expect_str()?.to_owned());
        }
        if names.is_empty() {
            return Err(Error::Damaged);
        }
        Ok(Self { app_label, model, fingerprint, flags, database, names })
    }

    /// Writes it.
    pub fn write(&self, out: &mut Writer) {
        out.array(6);
        out.str(&self.app_label);
        out.str(&self.model);
        out.bin(&self.fingerprint);
        out.uint(self.flags);
        match &self.database {
            Some(alias) => out.str(alias),
            None => out.nil(),
        }
        out.array(self.names.len());
        for name in &self.names {
            out.str(name);
        }
    }

    /// How many cells a row has.
    pub fn width(&self) -> usize {
        self.names.len() + usize::from(self.flags & SHAPE_RELATED != 0)
    }
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::Damaged)
}

fn leaf(kind: i8, payload: &[u8]) -> Result<Value, Error> {
    Ok(match kind {
        ext::BIG_INT if payload.is_empty() => return Err(Error::Damaged),
        ext::BIG_INT => Value::BigInt(payload.to_vec()),
        ext::SURROGATES => Value::Surrogates(payload.to_vec()),
        ext::DATE => {
            let (year, month, day) = moment::check_date(payload.try_into().map_err(|_| Error::Damaged)?)?;
            Value::Date { year, month, day }
        }
        ext::TIME => {
            let (bytes, zone) = moment::split_time(payload)?;
            Value::Time(clock(bytes, bytes[0] & FOLD != 0, zone))
        }
        ext::DATETIME => {
            let (bytes, zone) = moment::split_datetime(payload)?;
            let [high, low, month, day, clock_bytes @ ..] = bytes;
            Value::DateTime(DateTime {
                year: u16::from_be_bytes([high, low]),
                month: month & !FOLD,
                day,
                time: clock(clock_bytes, month & FOLD != 0, zone),
            })
        }
        ext::TIMEDELTA => {
            let (days, seconds, microseconds) = moment::split_timedelta(payload)?;
            Value::TimeDelta { days, seconds, microseconds }
        }
        ext::DECIMAL if payload.is_ascii() => Value::Decimal(text(payload)?),
        ext::UUID => Value::Uuid(payload.try_into().map_err(|_| Error::Damaged)?),
        ext::SAFE => Value::Safe(text(payload)?),
        ext::DECIMAL => return Err(Error::Damaged),
        _ => return Err(Error::Unknown),
    })
}

fn clock(bytes: [u8; 6], fold: bool, zone: Zone<&str>) -> Moment {
    let [hour, minute, second, high, middle, low] = bytes;
    let zone = match zone {
        Zone::Naive => Zone::Naive,
        Zone::Utc => Zone::Utc,
        Zone::Offset(microseconds) => Zone::Offset(microseconds),
        Zone::Named(name) => Zone::Named(name.to_owned()),
    };
    Moment { hour: hour & !FOLD, minute, second, microsecond: u32::from_be_bytes([0, high, middle, low]), fold, zone }
}

fn put_all(values: &[Value], out: &mut Writer, widths: &mut Vec<usize>) {
    for value in values {
        put(value, out, widths);
    }
}

fn put_sequence(kind: i8, values: &[Value], out: &mut Writer, widths: &mut Vec<usize>) {
    let mark = out.begin(kind);
    out.array(values.len());
    put_all(values, out, widths);
    out.end(mark);
}

fn put(value: &Value, out: &mut Writer, widths: &mut Vec<usize>) {
    match value {
        Value::Nil => out.nil(),
        Value::Bool(value) => out.bool(*value),
        Value::Int(value) => out.int(*value),
        Value::Uint(value) => out.uint(*value),
        Value::BigInt(bytes) => out.big_int(bytes),
        Value::Float(value) => out.float(*value),
        Value::Str(value) => out.str(value),
        Value::Surrogates(bytes) => out.extension(ext::SURROGATES, bytes),
        Value::Bytes(bytes) => out.bin(bytes),
        Value::List(values) => {
            out.array(values.len());
            put_all(values, out, widths);
        }
        Value::Tuple(values) => put_sequence(ext::TUPLE, values, out, widths),
        Value::Set(values) => put_sequence(ext::SET, values, out, widths),
        Value::FrozenSet(values) => put_sequence(ext::FROZENSET, values, out, widths),
        Value::Dict(pairs) => {
            out.map(pairs.len());
            for (key, value) in pairs {
                put(key, out, widths);
                put(value, out, widths);
            }
        }
        Value::Date { year, month, day } => {
            let [high, low] = year.to_be_bytes();
            out.extension(ext::DATE, &[high, low, *month, *day]);
        }
        Value::Time(moment) => {
            let mut payload = moment.bytes().to_vec();
            payload[0] |= if moment.fold { FOLD } else { 0 };
            moment::push_zone(&mut payload, &moment.zone);
            out.extension(ext::TIME, &payload);
        }
        Value::DateTime(DateTime { year, month, day, time }) => {
            let [high, low] = year.to_be_bytes();
            let mut payload = vec![high, low, month | if time.fold { FOLD } else { 0 }, *day];
            payload.extend_from_slice(&time.bytes());
            moment::push_zone(&mut payload, &time.zone);
            out.extension(ext::DATETIME, &payload);
        }
        Value::TimeDelta { days, seconds, microseconds } => {
            let payload = [days.to_be_bytes(), seconds.to_be_bytes(), microseconds.to_be_bytes()].concat();
            out.extension(ext::TIMEDELTA, &payload);
        }
        Value::Decimal(text) => out.extension(ext::DECIMAL, text.as_bytes()),
        Value::Uuid(bytes) => out.extension(ext::UUID, bytes),
        Value::Safe(text) => out.extension(ext::SAFE, text.as_bytes()),
        Value::Rows(columns, cells) => {
            let mark = out.begin(ext::ROWS);
            out.array(columns.len());
            put_all(columns, out, widths);
            out.uint(rows(cells, columns.len()));
            put_all(cells, out, widths);
            out.end(mark);
        }
        Value::Tuples(width, cells) => {
            let mark = out.begin(ext::TUPLES);
            out.uint(*width as u64);
            out.uint(rows(cells, *width));
            put_all(cells, out, widths);
            out.end(mark);
        }
        Value::Models { number, shape, single, cells } => {
            let mark = out.begin(ext::MODELS);
            out.uint(*number);
            if let Some(shape) = shape {
                widths.push(shape.width());
                shape.write(out);
            }
            if *single {
                out.nil();
            } else {
                let width = usize::try_from(*number).ok().and_then(|index| widths.get(index).copied()).unwrap_or(0);
                out.uint(rows(cells, width));
            }
            put_all(cells, out, widths);
            out.end(mark);
        }
        Value::Response(response) => put_response(response, out, widths),
    }
}

fn rows(cells: &[Value], width: usize) -> u64 {
    cells.len().checked_div(width).unwrap_or(0) as u64
}

fn put_response(response: &Response, out: &mut Writer, widths: &mut Vec<usize>) {
    let mark = out.begin(ext::RESPONSE);
    out.array(7);
    out.uint(response.kind);
    put(&response.status, out, widths);
    put(&response.reason, out, widths);
    put(&response.charset, out, widths);
    out.array(response.headers.len());
    for text in &response.headers {
        out.str(text);
    }
    out.array(response.cookies.len() * 5);
    for cookie in &response.cookies {
        put_all(cookie, out, widths);
    }
    out.array(response.body.len());
    for chunk in &response.body {
        out.bin(chunk);
    }
    put(&response.attributes, out, widths);
    out.end(mark);
}

impl Moment {
    fn bytes(&self) -> [u8; 6] {
        let [_, high, middle, low] = self.microsecond.to_be_bytes();
        [self.hour, self.minute, self.second, high, middle, low]
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_DEPTH;
    use super::*;

    fn round_trip(value: &Value) -> Value {
        let mut out = Writer::default();
        value.write(&mut out);
        Value::read(&out.into_bytes()).expect("what was written reads back")
    }

    fn noon(zone: Zone<String>, fold: bool) -> Moment {
        Moment { hour: 12, minute: 0, second: 59, microsecond: 999_999, fold, zone }
    }

    fn examples() -> Vec<Value> {
        let shape = Shape {
            app_label: "shop".into(),
            model: "Film".into(),
            fingerprint: [7; 16],
            flags: SHAPE_RELATED,
            database: Some("default".into()),
            names: vec!["id".into(), "title".into()],
        };
        let row = vec![Value::Dict(vec![]), Value::Int(1), Value::Str("Solaris".into())];
        let mut values: Vec<Value> =
            [0, 1, -1, 31, -32, -33, 127, 128, 255, 256, -128, -129, 65_535, 65_536, i64::MAX, i64::MIN]
                .map(Value::Int)
                .into();
        values.extend([
            Value::Nil,
            Value::Bool(true),
            Value::Uint(u64::MAX),
            Value::BigInt(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Value::Float(-0.0),
            Value::Str("o‘zbek".repeat(20_000)),
            Value::Surrogates(vec![0xed, 0xa0, 0x80]),
            Value::Bytes(vec![1; 70_000]),
            Value::List(vec![Value::Nil; 70_000]),
            Value::Tuple(vec![Value::Set(vec![]), Value::FrozenSet(vec![Value::Int(5)])]),
            Value::Dict((0..20).map(|i| (Value::Int(i), Value::Nil)).collect()),
            Value::Date { year: 2024, month: 2, day: 29 },
            Value::Time(noon(Zone::Naive, true)),
            Value::DateTime(DateTime { year: 1, month: 1, day: 1, time: noon(Zone::Utc, false) }),
            Value::DateTime(DateTime {
                year: 9999,
                month: 12,
                day: 31,
                time: noon(Zone::Offset(-18_000_000_000), true),
            }),
            Value::DateTime(DateTime {
                year: 2024,
                month: 2,
                day: 29,
                time: noon(Zone::Named("Asia/Tashkent".into()), false),
            }),
            Value::TimeDelta { days: -3, seconds: 86_399, microseconds: 1 },
            Value::Decimal("-1E+6144".into()),
            Value::Uuid([3; 16]),
            Value::Safe("<b>".into()),
            Value::Rows(vec![Value::Str("id".into())], vec![Value::Int(1), Value::Int(2)]),
            Value::Tuples(2, vec![Value::Int(1), Value::Int(2), Value::Int(3), Value::Int(4)]),
            Value::List(vec![
                Value::Models {
                    number: 0,
                    shape: Some(Box::new(shape)),
                    single: false,
                    cells: [row.clone(), row.clone()].concat(),
                },
                Value::Models { number: 0, shape: None, single: true, cells: row },
            ]),
            Value::Response(Box::new(Response {
                kind: 0,
                status: Box::new(Value::Int(404)),
                reason: Box::new(Value::Nil),
                charset: Box::new(Value::Nil),
                headers: vec!["Content-Type".into(), "text/html".into()],
                cookies: vec![[const { Value::Nil }; 5]],
                body: vec![b"<html>".to_vec()],
                attributes: Box::new(Value::Dict(vec![])),
            })),
        ]);
        values
    }

    #[test]
    fn every_type_reads_back_as_written() {
        for value in examples() {
            assert_eq!(round_trip(&value), value);
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_an_error_or_a_value() {
        for value in examples() {
            let mut out = Writer::default();
            value.write(&mut out);
            let mut bytes = out.into_bytes();
            bytes.truncate(512);
            for end in 0..bytes.len() {
                assert!(Value::read(&bytes[..end]).is_err());
            }
            for position in 0..bytes.len() {
                for change in [1, 0x80, 0xff] {
                    bytes[position] ^= change;
                    let _ = Value::read(&bytes);
                    bytes[position] ^= change;
                }
            }
        }
    }

    #[test]
    fn nesting_stops_at_the_limit() {
        let nested = |levels: u32| {
            let mut bytes = vec![0x91; levels as usize];
            bytes.push(0xc0);
            bytes
        };
        assert!(Value::read(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Value::read(&nested(MAX_DEPTH + 1)), Err(Error::Deep));
        assert_eq!(Value::read(&nested(5_000_000)), Err(Error::Deep));
    }

    #[test]
    fn a_short_input_cannot_declare_many_items() {
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            // a table without columns and with four billion rows
            &[0xc7, 6, ext::ROWS as u8, 0x90, 0xce, 0xff, 0xff, 0xff, 0xff],
            &[0xc7, 6, ext::TUPLES as u8, 0x00, 0xce, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Value::read(bytes), Err(Error::Truncated));
        }
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        assert_eq!(Value::read(&[0xc0, 0xc0]), Err(Error::Trailing));
    }
}
