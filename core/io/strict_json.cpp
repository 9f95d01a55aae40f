#include "core/io/strict_json.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

/// Follows the parser and refuses what nlohmann::json would let pass.
class StrictWatcher {
 public:
  explicit StrictWatcher(std::string_view file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, const json& value) {
    if (depth > kMaxDepth) throw_user("{}: JSON nested deeper than {} levels", file_, kMaxDepth);
    switch (event) {
      case json::parse_event_t::object_start:
        keys_.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys_.back().insert(value.get_ref<const std::string&>()).second) {
          throw_user("{}: duplicate key '{}'", file_,
                     printable(value.get_ref<const std::string&>()));
        }
        break;
      default:
        break;
    }
    return true;
  }

 private:
  std::string_view file_;
  std::vector<std::set<std::string>> keys_;
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
  try {
    StrictWatcher watcher(file);
    return json::parse(text.begin(), text.end(),
                       [&](int depth, json::parse_event_t event, json& value) {
                         return watcher(depth, event, value);
                       });
  } catch (const json::parse_error& error) {
    throw_user("{}: malformed JSON near byte {}", file, error.byte);
  } catch (const json::exception&) {
    throw_user("{}: malformed JSON", file);
  }
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
