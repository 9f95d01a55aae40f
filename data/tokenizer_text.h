// UTF-8 and Unicode helpers of the tokenizers: validity, code points, classes, normal forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace thimble {

inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's space

/// Length in bytes of the well-formed UTF-8 sequence at the start of `text`, or 0 if there is none.
std::size_t utf8_length(std::string_view text);

/// True if `tail` (at most 3 bytes) may become a well-formed character when more bytes follow.
bool is_incomplete_utf8(std::string_view tail);

/// The code point of the well-formed character at the start of `text`.
std::int32_t code_point(std::string_view text);

/// Appends the UTF-8 form of a code point below 0x110000.
void append_utf8(std::int32_t code, std::string& out);

/// Unicode property White_Space.
bool is_space(std::int32_t code);

/// Letters, letter-like numbers, marks, decimal digits, connectors and joiners: what the reference
/// takes for part of a word around added tokens.
bool is_word(std::int32_t code);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// The normal form of well-formed UTF-8 text.
std::string normalize_unicode(std::string_view text, NormalForm form);

/// Copy of `text` with every `from` (not empty) replaced by `to`, left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// The byte 0xNN of a token spelled "<0xNN>", or -1.
int fallback_byte(std::string_view token);

/// "<0xNN>"
std::string fallback_token(std::uint8_t byte);

}  // namespace thimble
