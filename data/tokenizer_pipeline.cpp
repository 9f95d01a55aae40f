#include "data/tokenizer_pipeline.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "data/utf8.h"

namespace thimble {
namespace {

using Range = TokenRegex::Match;

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <typename... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

/// Code point shown for each byte: printable Latin-1 as itself, the others from U+0100 upwards in
/// order.
std::array<std::int32_t, 256> visible_codes() {
  std::array<std::int32_t, 256> codes{};
  std::int32_t next = 256;
  for (std::int32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    codes[static_cast<std::size_t>(byte)] = printable ? byte : next++;
  }
  return codes;
}

}  // namespace

std::string_view gpt2_pattern() {
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
}

int byte_of_visible(std::int32_t code) {
  static const auto bytes = [] {
    std::array<int, 0x144> table{};
    table.fill(-1);
    const auto codes = visible_codes();
    for (int byte = 0; byte < 256; ++byte) {
      table.at(static_cast<std::size_t>(codes[static_cast<std::size_t>(byte)])) = byte;
    }
    return table;
  }();
  const auto index = static_cast<std::size_t>(code);
  return index < bytes.size() ? bytes[index] : -1;
}

std::string visible_of_byte(std::uint8_t byte) {
  static const auto codes = visible_codes();
  std::string text;
  append_utf8(codes[byte], text);
  return text;
}

std::optional<std::string> bytes_of_visible(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const int byte = byte_of_visible(code_point(text));
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    text.remove_prefix(utf8_length(text));
  }
  return bytes;
}

PipelineTokenizer::PipelineTokenizer(PipelineParts parts, std::span<const std::string> texts)
    : normalizers_(std::move(parts.normalizers)),
      splitters_(std::move(parts.splitters)),
      model_(std::move(parts.model)) {
  info_ = std::move(parts.info);
  start_strip_ = std::move(parts.start_strip);
  start_strip_count_ = parts.start_strip_count;
  std::vector<std::int32_t> special_ids;
  for (const auto& id : {info_.bos_id, info_.eos_id, info_.pad_id}) {
    if (id) special_ids.push_back(*id);
  }
  for (const AddedToken& token : parts.added) {
    if (token.special) special_ids.push_back(token.id);
    if (token.normalized) {
      after_normalizing_.add(token, normalize(token.text, true));
    } else {
      before_normalizing_.add(token, token.text);
    }
  }
  before_normalizing_.finish();
  after_normalizing_.finish();
  set_tokens(texts, special_ids);
}

void PipelineTokenizer::encode_to(std::string_view text, EncodeOptions options,
                                  std::vector<std::int32_t>& ids) const {
  Place place{!options.continues, !options.continues};
  while (!text.empty()) {
    const std::size_t valid = first_invalid_utf8(text);
    if (valid > 0) encode_valid(text.substr(0, valid), options.parse_special, place, ids);
    text.remove_prefix(valid);
    std::size_t invalid = 0;
    while (invalid < text.size() && utf8_length(text.substr(invalid)) == 0) ++invalid;
    if (invalid > 0) model_.encode_bytes(text.substr(0, invalid), ids);
    text.remove_prefix(invalid);
    place = {false, false};
  }
}

void PipelineTokenizer::encode_valid(std::string_view text, bool parse_special, Place place,
                                     std::vector<std::int32_t>& ids) const {
  if (before_normalizing_.empty()) return encode_part(text, parse_special, place, ids);
  for (const auto& part : before_normalizing_.split(text, parse_special)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      place = {false, true};
    } else {
      encode_part(part.text, parse_special, place, ids);
    }
  }
}

void PipelineTokenizer::encode_part(std::string_view text, bool parse_special, Place place,
                                    std::vector<std::int32_t>& ids) const {
  std::string normalized;
  if (!normalizers_.empty()) {
    normalized = normalize(text, place.after_break);
    text = normalized;
  }
  if (after_normalizing_.empty()) return split(0, text, place, ids);
  for (const auto& part : after_normalizing_.split(text, parse_special)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      place = {false, true};
    } else {
      split(0, part.text, place, ids);
    }
  }
}

std::string PipelineTokenizer::normalize(std::string_view text, bool after_break) const {
  std::string current(text);
  const Overloaded apply{
      [&](const UnicodeStage& stage) { current = normalize_unicode(current, stage.form); },
      [&](const PrependStage& stage) {
        if (after_break && !current.empty()) current.insert(0, stage.text);
      },
      [&](const ReplaceStage& stage) {
        current = stage.regex ? replace_matches(*stage.regex, current, stage.content)
                              : replace_all(current, stage.text, stage.content);
      }};
  // Compatibility forms grow a text at most elevenfold; a file that asks for more means harm.
  const std::size_t most = 16 * text.size() + 4096;
  for (const NormalizerStage& stage : normalizers_) {
    std::visit(apply, stage);
    if (current.size() > most) {
      throw_user("{}: the normalizer turns {} bytes of text into {}", info_.name, text.size(),
                 current.size());
    }
  }
  return current;
}

void PipelineTokenizer::split(std::size_t stage, std::string_view piece, Place place,
                              std::vector<std::int32_t>& ids) const {
  if (piece.empty()) return;
  if (stage == splitters_.size()) return model_.encode(piece, ids);
  const auto split_further = [&](const std::vector<Range>& ranges, std::string_view text) {
    for (const Range& range : ranges) {
      const std::string_view part = text.substr(range.begin, range.end - range.begin);
      const bool first = range.begin == 0;
      split(stage + 1, part, {first && place.text_start, !first || place.after_break}, ids);
    }
  };
  const Overloaded apply{
      [&](const SplitStage& rule) { split_further(split_ranges(rule, piece), piece); },
      [&](const PrefixSpaceStage&) {
        if (!place.after_break || piece.starts_with(' '))
          return split(stage + 1, piece, place, ids);
        split(stage + 1, ' ' + std::string(piece), place, ids);
      },
      [&](const MetaspaceStage& rule) {
        const bool prepend = rule.scheme == PrependScheme::kAlways
                                 ? place.after_break
                                 : rule.scheme == PrependScheme::kFirst && place.text_start;
        std::string text = replace_all(piece, " ", rule.replacement);
        if (prepend && !text.starts_with(rule.replacement)) text.insert(0, rule.replacement);
        if (!rule.split) return split(stage + 1, text, place, ids);
        std::vector<Range> ranges;
        for (std::size_t begin = 0; begin < text.size();) {
          const std::size_t end = std::min(text.find(rule.replacement, begin + 1), text.size());
          ranges.push_back({begin, end});
          begin = end;
        }
        split_further(ranges, text);
      }};
  std::visit(apply, splitters_[stage]);
}

}  // namespace thimble
