#include "data/json_sample.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/file_kind.h"
#include "data/utf8.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

Json parse_object(const std::string& line, const std::string& where) {
  Json value;
  try {
    value = Json::parse(line);
  } catch (const Json::parse_error& error) {
    const std::size_t at = error.byte > 0 ? error.byte - 1 : 0;
    const std::string_view rest = std::string_view(line).substr(std::min(at, line.size()));
    const std::string path = where.substr(0, where.rfind(':'));
    const bool utf8 = first_invalid_utf8(line) == line.size();
    throw_user(
        "{}: not valid JSON at byte {}, near '{}'{}", where, at + 1, printable(rest, 20),
        utf8 ? not_json_hint(path, line)
             : fmt::format("; not UTF-8 (Latin-1? iconv -f LATIN1 -t UTF-8 {} > converted.jsonl)",
                           path));
  } catch (const Json::exception& error) {  // a number that no double holds
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

std::string key_list(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(printable(item.key()));
  return keys.empty() ? "none" : join(keys);
}

std::string take_string(Json& object, const std::string& field, const std::string& where) {
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
  const Json object = parse_object(line, where);
  const bool text = object.contains(fields.text);
  const bool pair = object.contains(fields.prompt) && object.contains(fields.completion);
  if (text && pair) {
    throw_user(
        "{}: the line has both '{}' and '{}' with '{}'; set format to text or prompt_completion",
        where, fields.text, fields.prompt, fields.completion);
  }
  if (text) return SampleFormat::kText;
  if (pair) return SampleFormat::kPromptCompletion;
  if (object.contains("messages") || object.contains("conversations")) {
    throw_user("{}: format 'chat' is not in this release", where);
  }
  throw_user(
      "{}: cannot tell the format: no '{}' and no '{}' with '{}'; the line has: {}; "
      "map them in fields (on a command line: --field-prompt, --field-completion, --field-text)",
      where, fields.text, fields.prompt, fields.completion, key_list(object));
}

DocumentPiece parse_json_sample(const std::string& line, SampleFormat format,
                                const FieldNames& fields, const std::string& where) {
  Json object = parse_object(line, where);
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
