#include "data/tokenizer_stages.h"

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "data/unicode_classes.h"

namespace thimble {
namespace {

[[noreturn]] void refuse_type(const JsonField& section, const std::string& type,
                              std::string_view supported) {
  throw_user("{} type '{}' is not supported; supported: {}", section.where(), printable(type),
             supported);
}

/// The pattern field {"String": "..."} or {"Regex": "..."}.
struct Pattern {
  std::string text;
  bool literal;
};

Pattern read_pattern(const JsonField& pattern) {
  pattern.only_keys({"String", "Regex"});
  const bool literal = pattern.contains("String");
  std::string text = pattern[literal ? "String" : "Regex"].string();
  if (text.empty()) throw_user("{}: the pattern is empty", pattern.where());
  return {std::move(text), literal};
}

SplitBehavior read_behavior(const JsonField& field) {
  const std::string text = field.string();
  if (text == "Removed") return SplitBehavior::kRemoved;
  if (text == "Isolated") return SplitBehavior::kIsolated;
  if (text == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (text == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (text == "Contiguous") return SplitBehavior::kContiguous;
  throw_user(
      "{}: '{}' is not supported; supported: Removed, Isolated, MergedWithPrevious, "
      "MergedWithNext, Contiguous",
      field.where(), printable(text));
}

/// Both spellings of Metaspace: prepend_scheme, or the older add_prefix_space.
PrependScheme read_prepend_scheme(const JsonField& section) {
  const bool prefix = section["add_prefix_space"].boolean(true);
  const JsonField field = section["prepend_scheme"];
  if (field.is_null()) return prefix ? PrependScheme::kAlways : PrependScheme::kNever;
  const std::string text = field.string();
  if (text == "always") return PrependScheme::kAlways;
  if (text == "first") return PrependScheme::kFirst;
  if (text == "never") return PrependScheme::kNever;
  throw_user("{}: '{}' is not supported; supported: always, first, never", field.where(),
             printable(text));
}

/// Text that stages put into what they process; its length bounds how much a hostile file can make
/// them grow it.
std::string read_insertion(const JsonField& field) {
  constexpr std::size_t kMaxBytes = 64;
  std::string text = field.string();
  if (text.size() > kMaxBytes) {
    throw_user("{}: has {} bytes, allowed: {}", field.where(), text.size(), kMaxBytes);
  }
  return text;
}

std::string read_character(const JsonField& field) {
  std::string text = field.string();
  if (text.empty() || utf8_length(text) != text.size()) {
    throw_user("{}: '{}' is not one character", field.where(), printable(text));
  }
  return text;
}

void check_metaspace_keys(const JsonField& section) {
  section.only_keys(
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
}

void add_splitter(const JsonField& section, Splitters& out) {
  const std::string type = section["type"].string();
  if (out.byte_level) throw_user("{}: nothing may follow ByteLevel", section.where());
  if (type == "ByteLevel") {
    section.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (section["add_prefix_space"].boolean(true)) out.stages.emplace_back(PrefixSpaceStage{});
    if (section["use_regex"].boolean(true)) {
      out.stages.emplace_back(SplitStage{TokenRegex(gpt2_pattern(), false, section.where())});
    }
    out.byte_level = true;
  } else if (type == "Split") {
    section.only_keys({"type", "pattern", "behavior", "invert"});
    const Pattern pattern = read_pattern(section["pattern"]);
    out.stages.emplace_back(
        SplitStage{TokenRegex(pattern.text, pattern.literal, section["pattern"].where()),
                   read_behavior(section["behavior"]), section["invert"].boolean(false)});
  } else if (type == "Digits") {
    section.only_keys({"type", "individual_digits"});
    const bool single = section["individual_digits"].boolean(false);
    out.stages.emplace_back(
        SplitStage{TokenRegex::of_set(unicode_set("rust:numeric")),
                   single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Punctuation") {
    section.only_keys({"type", "behavior"});
    const JsonField behavior = section["behavior"];
    out.stages.emplace_back(
        SplitStage{TokenRegex::of_set(unicode_set("rust:punctuation")),
                   behavior.is_null() ? SplitBehavior::kIsolated : read_behavior(behavior)});
  } else if (type == "Metaspace") {
    check_metaspace_keys(section);
    out.stages.emplace_back(MetaspaceStage{read_character(section["replacement"]),
                                           read_prepend_scheme(section),
                                           section["split"].boolean(true)});
  } else if (type == "Sequence") {
    section.only_keys({"type", "pretokenizers"});
    for (const JsonField& item : section["pretokenizers"].elements()) add_splitter(item, out);
  } else {
    refuse_type(section, type, "ByteLevel, Split, Digits, Punctuation, Metaspace, Sequence");
  }
}

void add_normalizer(const JsonField& section, std::vector<NormalizerStage>& out) {
  const std::string type = section["type"].string();
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    section.only_keys({"type"});
    out.emplace_back(UnicodeStage{type == "NFC"    ? NormalForm::kNfc
                                  : type == "NFD"  ? NormalForm::kNfd
                                  : type == "NFKC" ? NormalForm::kNfkc
                                                   : NormalForm::kNfkd});
  } else if (type == "Prepend") {
    section.only_keys({"type", "prepend"});
    out.emplace_back(PrependStage{read_insertion(section["prepend"])});
  } else if (type == "Replace") {
    section.only_keys({"type", "pattern", "content"});
    const Pattern pattern = read_pattern(section["pattern"]);
    ReplaceStage stage{std::nullopt, pattern.text, read_insertion(section["content"])};
    if (!pattern.literal) stage.regex.emplace(pattern.text, false, section["pattern"].where());
    out.emplace_back(std::move(stage));
  } else if (type == "Sequence") {
    section.only_keys({"type", "normalizers"});
    for (const JsonField& item : section["normalizers"].elements()) add_normalizer(item, out);
  } else {
    refuse_type(section, type, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
  }
}

/// The one id that a special token of a template stands for.
std::int32_t template_id(const JsonField& section, const JsonField& piece) {
  const std::string name = piece["SpecialToken"]["id"].string();
  const JsonField ids = section["special_tokens"][name]["ids"];
  const auto elements = ids.elements();
  if (elements.size() != 1) {
    throw_user("{}: stands for {} tokens, supported: 1", ids.where(), elements.size());
  }
  return narrow<std::int32_t>(elements.front().integer(0, kMaxTokenId));
}

void add_template(const JsonField& section, DocumentFrame& out) {
  section.only_keys({"type", "single", "pair", "special_tokens"});
  bool seen_text = false;
  for (const JsonField& piece : section["single"].elements()) {
    if (piece.contains("Sequence")) {
      if (seen_text) throw_user("{}: the text occurs twice", section["single"].where());
      seen_text = true;
      continue;
    }
    std::optional<std::int32_t>& place = seen_text ? out.last : out.first;
    if (place) {
      throw_user("{}: more than one special token {} the text is not supported", piece.where(),
                 seen_text ? "after" : "before");
    }
    place = template_id(section, piece);
  }
  if (!seen_text) throw_user("{}: the text does not occur", section["single"].where());
}

void add_post_processor(const JsonField& section, DocumentFrame& out) {
  const std::string type = section["type"].string();
  if (type == "ByteLevel") {
    section.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "TemplateProcessing") {
    add_template(section, out);
  } else if (type == "Sequence") {
    section.only_keys({"type", "processors"});
    for (const JsonField& item : section["processors"].elements()) add_post_processor(item, out);
  } else {
    refuse_type(section, type, "ByteLevel, TemplateProcessing, Sequence");
  }
}

void set_start_strip(const JsonField& section, std::string text, std::int64_t count,
                     DecoderRules& out) {
  if (out.start_strip_count > 0) throw_user("{}: the start is stripped twice", section.where());
  out.start_strip = std::move(text);
  out.start_strip_count = count;
}

void add_decoder(const JsonField& section, bool* fused, DecoderRules& out) {
  const std::string type = section["type"].string();
  if (type == "ByteLevel") {
    section.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    out.byte_level = true;
  } else if (type == "Replace") {
    section.only_keys({"type", "pattern", "content"});
    const Pattern pattern = read_pattern(section["pattern"]);
    if (!pattern.literal) throw_user("{}: a decoder may replace a String only", section.where());
    out.replacements.emplace_back(pattern.text, read_insertion(section["content"]));
  } else if (type == "ByteFallback") {
    section.only_keys({"type"});
    out.byte_fallback = true;
  } else if (type == "Fuse") {
    section.only_keys({"type"});
    *fused = true;
  } else if (type == "Strip") {
    section.only_keys({"type", "content", "start", "stop"});
    const std::int64_t start = section["start"].integer(0, 1024);
    if (section["stop"].integer(0, 1024) != 0 || (start > 0 && !*fused)) {
      throw_user("{}: Strip is supported after Fuse and at the start only", section.where());
    }
    if (start > 0) set_start_strip(section, read_character(section["content"]), start, out);
  } else if (type == "Metaspace") {
    check_metaspace_keys(section);
    out.replacements.emplace_back(read_character(section["replacement"]), " ");
    if (read_prepend_scheme(section) != PrependScheme::kNever)
      set_start_strip(section, " ", 1, out);
  } else if (type == "Sequence") {
    section.only_keys({"type", "decoders"});
    for (const JsonField& item : section["decoders"].elements()) add_decoder(item, fused, out);
  } else {
    refuse_type(section, type,
                "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
  }
}

}  // namespace

std::vector<NormalizerStage> read_normalizer(const JsonField& section) {
  std::vector<NormalizerStage> stages;
  if (!section.is_null()) add_normalizer(section, stages);
  return stages;
}

Splitters read_pre_tokenizer(const JsonField& section) {
  Splitters splitters;
  if (!section.is_null()) add_splitter(section, splitters);
  return splitters;
}

DocumentFrame read_post_processor(const JsonField& section) {
  DocumentFrame frame;
  if (!section.is_null()) add_post_processor(section, frame);
  return frame;
}

DecoderRules read_decoder(const JsonField& section) {
  DecoderRules rules;
  rules.where = section.where();
  bool fused = false;
  if (!section.is_null()) add_decoder(section, &fused, rules);
  return rules;
}

std::string DecoderRules::text_of(std::string token) const {
  if (byte_fallback) {
    if (const int byte = fallback_byte(token); byte >= 0) return {static_cast<char>(byte)};
  }
  for (const auto& [from, to] : replacements) {
    token = replace_all(token, from, to);
    if (token.size() > kMaxTokenBytes) {
      throw_user("{}: makes a token longer than {} bytes", where, kMaxTokenBytes);
    }
  }
  return token;
}

AddedToken read_added_token(const JsonField& token, std::int32_t id) {
  token.only_keys(
      {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type"});
  AddedToken added;
  added.text = token["content"].string();
  added.id = id;
  added.special = token["special"].boolean(false);
  added.single_word = token["single_word"].boolean(false);
  added.lstrip = token["lstrip"].boolean(false);
  added.rstrip = token["rstrip"].boolean(false);
  added.normalized = token["normalized"].boolean(!added.special);
  return added;
}

}  // namespace thimble
