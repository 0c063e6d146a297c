//! Attribute macros of the crate `millstream`, which re-exports them.
//!
//! They work on tokens alone and know nothing of types: what they write is what a user could have
//! written, and rkyv's derive macros check it.
#![forbid(unsafe_code)]

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a struct or an enum fit to be a key, to be kept in state, and to cross an exchange.
///
/// Millstream keeps such values in rkyv's archived form, which is read in place. The attribute
/// derives that form: it stands for
///
/// ```text
/// #[derive(::millstream::rkyv::Archive, ::millstream::rkyv::Serialize, ::millstream::rkyv::Deserialize)]
/// #[rkyv(crate = ::millstream::rkyv)]
/// #[repr(C)] // a struct without a `repr` of its own
/// ```
///
/// so that a program needs no dependency on rkyv, and cannot have one of another version or with
/// another byte order. As its fields lie in memory in their order, as they do in the archive, a struct of
/// numbers, arrays of them and structs of such, without gaps between them, is copied as it is, and used
/// where another host's bytes were received; so put larger fields first. Every field must be archivable in turn: numbers, strings, options, vectors,
/// maps and tuples are, and so is every other `#[record]`.
///
/// ```
/// # extern crate self as millstream;
/// # pub use {millstream_macros::record, rkyv};
/// # fn main() {}
/// # mod program {
/// use millstream::record;
///
/// #[record]
/// #[derive(Clone, Debug, PartialEq)]
/// pub struct Play {
///     pub user: u64,
///     pub song: String,
///     pub seconds: Option<u32>,
/// }
/// # }
/// ```
///
/// Further `#[rkyv(...)]` attributes may follow it, such as `#[rkyv(derive(Debug))]` for the
/// archived form. A type that contains itself through a `Box` or `Vec` needs rkyv's `omit_bounds`
/// on that field.
///
/// # Errors
/// Refused by the compiler, in words: arguments, and anything else than a struct or an enum. The
/// dependency must be called `millstream` in the program's manifest.
#[proc_macro_attribute]
pub fn record(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if let Some(argument) = arguments.into_iter().next() {
        return compile_error(
            argument.span(),
            "`#[record]` takes no arguments; put options for the archived form into an attribute \
             `#[rkyv(...)]` below it",
        );
    }
    let has_layout = match has_layout(item.clone()) {
        Ok(has_layout) => has_layout,
        Err(refused) => {
            return compile_error(refused, "`#[record]` works on a struct or an enum");
        }
    };
    let layout = if has_layout { "" } else { "#[repr(C)]" };
    let attributes = format!("{ARCHIVE_ATTRIBUTES}{layout}");
    let mut output: TokenStream = attributes.parse().expect("the text is valid Rust");
    output.extend(item);
    output
}

const ARCHIVE_ATTRIBUTES: &str = "#[derive(\
        ::millstream::rkyv::Archive, \
        ::millstream::rkyv::Serialize, \
        ::millstream::rkyv::Deserialize,\
    )]\
    #[rkyv(crate = ::millstream::rkyv)]";

/// Skips attributes and visibility and looks at the keyword: whether it is an enum, or has a `repr` of its
/// own. The error is where something else is.
fn has_layout(item: TokenStream) -> Result<bool, Span> {
    let mut has_repr = false;
    let mut tokens = item.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match &token {
            // An attribute: `#` and a group in brackets.
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(attribute)) = tokens.next() {
                    let name = attribute.stream().into_iter().next();
                    has_repr |= name.is_some_and(|name| name.to_string() == "repr");
                }
            }
            TokenTree::Ident(ident) => match ident.to_string().as_str() {
                "struct" => return Ok(has_repr),
                "enum" => return Ok(true),
                // `pub` alone or with `(crate)` and the like.
                "pub" => {
                    tokens.next_if(|token| {
                        matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis)
                    });
                }
                _ => return Err(token.span()),
            },
            _ => return Err(token.span()),
        }
    }
    Err(Span::call_site())
}

/// `::core::compile_error! { "message" }` at the span.
fn compile_error(span: Span, message: &str) -> TokenStream {
    let punct = |c, spacing| TokenTree::from(Punct::new(c, spacing));
    let path = |name| {
        [
            punct(':', Spacing::Joint),
            punct(':', Spacing::Alone),
            TokenTree::from(Ident::new(name, span)),
        ]
    };
    let text = TokenStream::from(TokenTree::from(Literal::string(message)));
    path("core")
        .into_iter()
        .chain(path("compile_error"))
        .chain([punct('!', Spacing::Alone), Group::new(Delimiter::Brace, text).into()])
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
