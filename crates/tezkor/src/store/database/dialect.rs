//! Where databases differ: the words for the time, for an upsert, for the rows that a statement changed. It never runs anything.

/// Whose database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// SQLite from 3.24.
    Sqlite,
    /// PostgreSQL from 9.5.
    Postgresql,
    /// MySQL from 5.7.
    Mysql,
    /// MariaDB from 10.5.
    Mariadb,
}

/// How a database wants its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Whose it is.
    pub vendor: Vendor,
    /// Stands for a parameter in the text; where it begins with `%`, other percent signs are doubled.
    pub hole: &'static str,
    /// Whether INSERT, UPDATE and DELETE answer with the rows that they changed: SQLite from 3.35, PostgreSQL. MariaDB does it for INSERT
    /// and DELETE, MySQL for none, whatever this says.
    pub has_returning: bool,
    /// The most parameters of a statement.
    pub most_parameters: usize,
    /// The longest statement, its parameters included.
    pub most_bytes: usize,
}

impl Dialect {
    /// A table's name as statements write it. A name that is quoted already stays as it is, as in Django.
    pub fn quoted(&self, name: &str) -> String {
        let mark = if self.is_mysql() { '`' } else { '"' };
        let is_quoted = name.len() > 1 && name.starts_with(mark) && name.ends_with(mark);
        let quoted = if is_quoted { name.to_owned() } else { format!("{mark}{}{mark}", doubled(name, mark)) };
        if self.hole.starts_with('%') { doubled(&quoted, '%') } else { quoted }
    }

    /// Milliseconds since 1970 by the database's clock, which all machines share, at the beginning of the statement.
    pub(super) fn now(&self) -> &'static str {
        match self.vendor {
            Vendor::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            // Not now(), which stands still in a transaction, nor clock_timestamp(), for which no index is used.
            Vendor::Postgresql => "CAST(date_part('epoch', statement_timestamp()) * 1000 AS bigint)",
            // Not UNIX_TIMESTAMP(), which is an hour off while the session's time zone sets its clocks back.
            Vendor::Mysql | Vendor::Mariadb => "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)",
        }
    }

    /// What names a column of the row that is there, in an upsert.
    pub(super) fn held(&self) -> &'static str {
        if self.is_mysql() { "" } else { "held." }
    }

    /// The column of the row that an upsert offers.
    pub(super) fn offered(&self, column: &str) -> String {
        // MySQL 8 calls VALUES() outdated, but MariaDB knows nothing else.
        if self.is_mysql() { format!("VALUES({column})") } else { format!("excluded.{column}") }
    }

    /// The larger of two numbers.
    pub(super) fn larger(&self) -> &'static str {
        if self.vendor == Vendor::Sqlite { "MAX" } else { "GREATEST" }
    }

    pub(super) fn insert_returns(&self) -> bool {
        match self.vendor {
            Vendor::Sqlite | Vendor::Postgresql => self.has_returning,
            Vendor::Mariadb => true,
            Vendor::Mysql => false,
        }
    }

    pub(super) fn delete_returns(&self) -> bool {
        self.insert_returns()
    }

    pub(super) fn update_returns(&self) -> bool {
        !self.is_mysql() && self.has_returning
    }

    pub(super) fn is_mysql(&self) -> bool {
        matches!(self.vendor, Vendor::Mysql | Vendor::Mariadb)
    }
}

fn doubled(text: &str, mark: char) -> String {
    text.replace(mark, &format!("{mark}{mark}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQLITE: Dialect =
        Dialect { vendor: Vendor::Sqlite, hole: "?", has_returning: true, most_parameters: 999, most_bytes: 1 << 20 };

    #[test]
    fn a_name_is_quoted_once_and_keeps_its_own_quotes() {
        let postgresql = Dialect { vendor: Vendor::Postgresql, hole: "%s", ..SQLITE };
        let mysql = Dialect { vendor: Vendor::Mysql, hole: "%s", ..SQLITE };
        for (dialect, name, quoted) in [
            (SQLITE, "cache", "\"cache\""),
            (SQLITE, "50%", "\"50%\""),
            (postgresql, "a\"b", "\"a\"\"b\""),
            (postgresql, "\"shop\".\"cache\"", "\"shop\".\"cache\""),
            (postgresql, "50%", "\"50%%\""),
            (mysql, "ca`che", "`ca``che`"),
        ] {
            assert_eq!(dialect.quoted(name), quoted, "{name}");
        }
    }
}
