#include "data/tokenizer_reader.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxFileBytes = 128 * kMiB;
constexpr int kMaxStageDepth = 64;

/// Whether brackets outside strings nest deeper than `limit`. Asked before parsing: a parser that
/// calls back at every level goes through an object's members once for each of them.
bool nested_deeper(std::string_view text, int limit) {
  int depth = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) {
        if (text[at] == '\\') ++at;
      }
    } else if (c == '{' || c == '[') {
      if (++depth > limit) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

std::string read_tokenizer_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw_user("{}: cannot be read: {}", path.string(), error.message());
  if (size > static_cast<std::uintmax_t>(kMaxFileBytes)) {
    throw_user("{}: {} is too large for a tokenizer file, the limit is {}", path.string(),
               format_bytes(narrow<std::int64_t>(size)), format_bytes(kMaxFileBytes));
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    throw_user("{}: cannot be read", path.string());
  }
  return text;
}

JsonFile::JsonFile(std::string_view text, std::string name) : name_(std::move(name)) {
  if (nested_deeper(text, kMaxStageDepth)) {
    throw_user("{}: JSON nested deeper than {} levels", name_, kMaxStageDepth);
  }
  try {
    document_ = std::make_unique<nlohmann::json>(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& problem) {
    throw_user("{}: not valid JSON: {}", name_, printable(problem.what(), 200));
  }
}

JsonFile::~JsonFile() = default;

JsonField JsonFile::root() const {
  return {document_.get(), &name_, ""};
}

bool JsonField::is_null() const {
  return value_ == nullptr || value_->is_null();
}
bool JsonField::is_string() const {
  return value_ != nullptr && value_->is_string();
}
bool JsonField::is_object() const {
  return value_ != nullptr && value_->is_object();
}
bool JsonField::is_array() const {
  return value_ != nullptr && value_->is_array();
}

std::string JsonField::where() const {
  return path_.empty() ? *file_ : *file_ + ": " + path_;
}

void JsonField::mistyped(std::string_view expected) const {
  throw_user("{}: expected {}, found {}", where(), expected,
             value_ == nullptr ? "nothing" : value_->type_name());
}

JsonField JsonField::operator[](std::string_view key) const {
  if (!is_object()) mistyped("an object");
  const auto found = value_->find(key);
  return {found == value_->end() ? nullptr : &*found, file_,
          path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, printable(key))};
}

bool JsonField::contains(std::string_view key) const {
  return is_object() && value_->contains(key);
}

std::string JsonField::string() const {
  if (!is_string()) mistyped("a string");
  return value_->get<std::string>();
}

std::int64_t JsonField::integer(std::int64_t lowest, std::int64_t highest) const {
  if (value_ == nullptr || !value_->is_number_integer()) mistyped("an integer");
  const bool huge =
      value_->is_number_unsigned() && !std::in_range<std::int64_t>(value_->get<std::uint64_t>());
  const std::int64_t number = huge ? 0 : value_->get<std::int64_t>();
  if (huge || number < lowest || number > highest) {
    throw_user("{}: {} is not between {} and {}", where(), value_->dump(), lowest, highest);
  }
  return number;
}

bool JsonField::boolean(bool if_absent) const {
  if (is_null()) return if_absent;
  if (!value_->is_boolean()) mistyped("true or false");
  return value_->get<bool>();
}

std::vector<JsonField> JsonField::elements() const {
  if (!is_array()) mistyped("a list");
  std::vector<JsonField> fields;
  fields.reserve(value_->size());
  for (const auto& element : *value_) {
    fields.emplace_back(&element, file_, fmt::format("{}[{}]", path_, fields.size()));
  }
  return fields;
}

std::vector<std::pair<std::string, JsonField>> JsonField::members() const {
  if (!is_object()) mistyped("an object");
  std::vector<std::pair<std::string, JsonField>> fields;
  fields.reserve(value_->size());
  for (const auto& [key, value] : value_->items()) fields.emplace_back(key, (*this)[key]);
  return fields;
}

void JsonField::only_keys(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : members()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      std::vector<std::string> allowed(keys.begin(), keys.end());
      throw_user("{}: field '{}' is not supported; supported: {}", where(), printable(key),
                 join(allowed));
    }
  }
}

}  // namespace thimble
