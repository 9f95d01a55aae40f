#include "core/io/strict_json.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;

/// Reads the text once ahead of the parser and refuses what nlohmann::json would let pass. Not by
/// the parser's own callback, after which it looks through all members of an object for each value
/// that ends in it: a megabyte took a minute.
class StrictReader final : public nlohmann::json_sax<json> {
 public:
  explicit StrictReader(std::string_view file) : file_(file) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      throw_user("{}: duplicate key '{}'", file_, printable(name));
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    if (error.id == kOutOfRange)
      throw_user("{}: near byte {}: a number is too large", file_, position);
    throw_user("{}: malformed JSON near byte {}", file_, position);
  }

 private:
  static constexpr int kOutOfRange = 406;

  bool open() {
    keys_.emplace_back();
    if (keys_.size() > kMaxDepth)
      throw_user("{}: JSON nested deeper than {} levels", file_, kMaxDepth);
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::string_view file_;
  std::vector<std::unordered_set<std::string>> keys_;  // of every object and array that is open
};

const json& member(const json& object, std::string_view key, std::string_view file,
                   std::string_view where) {
  if (!object.is_object()) throw_user("{}: {}: an object is expected", file, where);
  const auto found = object.find(key);
  if (found == object.end()) throw_user("{}: {}: '{}' is missing", file, where, key);
  return *found;
}

/// The start of a value's text, for messages.
std::string shown(const json& value) {
  return value.is_structured()
             ? std::string(value.type_name())
             : printable(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

}  // namespace

json parse_strict_json(std::string_view text, std::string_view file) {
  // The parser would take a NUL for the end of its input.
  const std::size_t nul = text.find('\0');
  if (nul != text.npos) throw_user("{}: malformed JSON near byte {} (NUL)", file, nul);
  StrictReader reader(file);
  static_cast<void>(json::sax_parse(text.begin(), text.end(), &reader));
  return json::parse(text.begin(), text.end());
}

std::int64_t json_size(const json& object, std::string_view key, std::string_view file,
                       std::string_view where) {
  const json& value = member(object, key, file, where);
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMax) {
    throw_user("{}: {}: '{}' is {}; a non-negative integer is expected", file, where, key,
               shown(value));
  }
  return static_cast<std::int64_t>(value.get<std::uint64_t>());
}

std::string json_text(const json& object, std::string_view key, std::string_view file,
                      std::string_view where) {
  const json& value = member(object, key, file, where);
  if (!value.is_string()) {
    throw_user("{}: {}: '{}' is {}; text is expected", file, where, key, shown(value));
  }
  return value.get<std::string>();
}

}  // namespace thimble
