#include "models/generation_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kLimitBytes = kMiB;
constexpr std::int64_t kMostId = std::int64_t{1} << 24;

[[noreturn]] void wrong(std::string_view file, const char* key, const Json& value,
                        const char* allowed) {
  throw_user("{}: {} is {}, expected {}", file, key,
             printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60), allowed);
}

// A number above `least`, or at least that.
std::optional<double> number(const Json& json, std::string_view file, const char* key, bool zero) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::nullopt;
  const double value = found->is_number() ? found->get<double>() : -1;
  if (!(zero ? value >= 0 : value > 0))
    wrong(file, key, *found, zero ? "a number of at least 0" : "a number above 0");
  return value;
}

std::int32_t token_id(std::string_view file, const char* key, const Json& value) {
  if (!value.is_number_integer() || value.get<double>() < 0 ||
      value.get<double>() >= static_cast<double>(kMostId)) {
    wrong(file, key, value, "a token id, or a list of them");
  }
  return value.get<std::int32_t>();
}

}  // namespace

GenerationConfig parse_generation_config(std::string_view text, std::string_view file) {
  const Json json = parse_strict_json(std::string(text), std::string(file));
  if (!json.is_object()) throw_user("{}: not a JSON object", file);
  GenerationConfig config;
  constexpr const char* kEos = "eos_token_id";
  if (json.contains(kEos) && json[kEos].is_array()) {
    for (const Json& id : json[kEos]) config.eos_ids.push_back(token_id(file, kEos, id));
  } else if (json.contains(kEos) && !json[kEos].is_null()) {
    config.eos_ids.push_back(token_id(file, kEos, json[kEos]));
  }
  if (json.contains("do_sample") && !json["do_sample"].is_null()) {
    if (!json["do_sample"].is_boolean())
      wrong(file, "do_sample", json["do_sample"], "true or false");
    config.do_sample = json["do_sample"].get<bool>();
  }
  config.temperature = number(json, file, "temperature", true);
  config.top_p = number(json, file, "top_p", true);
  config.repetition_penalty = number(json, file, "repetition_penalty", false);
  if (const std::optional<double> top_k = number(json, file, "top_k", true))
    config.top_k = static_cast<std::int64_t>(std::min(*top_k, static_cast<double>(kMostId)));
  return config;
}

std::string with_end_id(std::string_view text, std::vector<std::int32_t> ends, std::int32_t end) {
  auto json = text.empty() ? nlohmann::ordered_json::object() : nlohmann::ordered_json::parse(text);
  const GenerationConfig had = parse_generation_config(json.dump(), kGenerationConfigName);
  if (!had.eos_ids.empty()) ends = had.eos_ids;
  if (std::find(ends.begin(), ends.end(), end) != ends.end()) return std::string(text);
  ends.push_back(end);
  json["eos_token_id"] = ends;
  return json.dump(2) + "\n";
}

GenerationConfig load_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / kGenerationConfigName;
  if (!std::filesystem::exists(file)) return {};
  return parse_generation_config(read_text_file(file, kLimitBytes), file.string());
}

}  // namespace thimble
