#include "data/json_sample.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/conversation.h"
#include "data/file_kind.h"
#include "data/json_nesting.h"
#include "data/utf8.h"

namespace thimble {
namespace {

using SampleJson = nlohmann::ordered_json;

}  // namespace

SampleJson parse_json_object(const std::string& line, const std::string& where) {
  if (is_nested_deeper(line, kMostRowLevels))
    throw_user("{}: JSON nested deeper than {} levels", where, kMostRowLevels);
  SampleJson value;
  try {
    value = SampleJson::parse(line);
  } catch (const SampleJson::parse_error& error) {
    const std::size_t at = error.byte > 0 ? error.byte - 1 : 0;
    const std::string_view rest = std::string_view(line).substr(std::min(at, line.size()));
    const std::string path = where.substr(0, where.rfind(':'));
    const bool utf8 = first_invalid_utf8(line) == line.size();
    throw_user(
        "{}: not valid JSON at byte {}, near '{}'{}", where, at + 1, printable(rest, 20),
        utf8 ? not_json_hint(path, line)
             : fmt::format("; not UTF-8 (Latin-1? iconv -f LATIN1 -t UTF-8 {} > converted.jsonl)",
                           path));
  } catch (const SampleJson::exception& error) {  // a number that no double holds
    throw_user("{}: {}; leave the number out or write it as text", where,
               printable(std::string_view(error.what())
                             .substr(std::min(std::string_view(error.what()).find(']') + 2,
                                              std::string_view(error.what()).size()))));
  }
  if (value.is_array()) {
    throw_user("{}: a JSON array; each line must be one object: jq -c '.[]' converts", where);
  }
  if (!value.is_object()) {
    throw_user("{}: a JSON {}; each line must be an object", where, value.type_name());
  }
  return value;
}

namespace {

std::string key_list(const SampleJson& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(printable(item.key()));
  return keys.empty() ? "none" : join(keys);
}

std::string take_string(SampleJson& object, const std::string& field, const std::string& where) {
  const auto found = object.find(field);
  if (found == object.end()) {
    throw_user("{}: no field '{}'; the line has: {}; map it in fields", where, field,
               key_list(object));
  }
  if (!found->is_string()) {
    throw_user("{}: field '{}' is {}, a string is needed", where, field, found->type_name());
  }
  return std::move(found->get_ref<std::string&>());
}

}  // namespace

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t") == line.npos;
}

SampleFormat detect_json_format(const std::string& line, const FieldNames& fields,
                                const std::string& where) {
  const SampleJson object = parse_json_object(line, where);
  const bool text = object.contains(fields.text);
  const SampleFormat chat = chat_format_of(object, fields);
  const bool lists = chat == SampleFormat::kChat && object.contains(fields.completion) &&
                     object[fields.completion].is_array();
  const bool pair = object.contains(fields.prompt) && object.contains(fields.completion) && !lists;
  const auto both = [&](const std::string& a, const std::string& b, std::string_view first,
                        std::string_view second) {
    throw_user("{}: the line has both {} and {}; set format to {} or {}", where, a, b, first,
               second);
  };
  const std::string text_key = fmt::format("'{}'", fields.text);
  const std::string pair_keys = fmt::format("'{}' with '{}'", fields.prompt, fields.completion);
  if (text && pair) both(text_key, pair_keys, "text", "prompt_completion");
  // Who names the fields has said what they are.
  const bool is_named =
      fields.prompt != FieldNames{}.prompt || fields.completion != FieldNames{}.completion;
  if (pair && is_named) return SampleFormat::kPromptCompletion;
  if (chat != SampleFormat::kAuto && (text || pair))
    both(text ? text_key : pair_keys, "a conversation", text ? "text" : "prompt_completion",
         format_name(chat));
  if (text) return SampleFormat::kText;
  if (pair) return SampleFormat::kPromptCompletion;
  if (chat != SampleFormat::kAuto) return chat;
  throw_user(
      "{}: cannot tell the format: no '{}', no '{}' with '{}', no '{}', no 'conversations' and no "
      "'instruction' with "
      "'output'; the line has: {}; "
      "map them in fields (on a command line: --field-prompt, --field-completion, --field-text)",
      where, fields.text, fields.prompt, fields.completion, fields.messages, key_list(object));
}

DocumentPiece parse_json_sample(const std::string& line, SampleFormat format,
                                const FieldNames& fields, const std::string& where) {
  SampleJson object = parse_json_object(line, where);
  DocumentPiece piece;
  if (format == SampleFormat::kText) {
    piece.text = take_string(object, fields.text, where);
  } else {
    piece.prompt = take_string(object, fields.prompt, where);
    piece.text = take_string(object, fields.completion, where);
  }
  return piece;
}

}  // namespace thimble
