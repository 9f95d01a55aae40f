#include "models/config_fields.h"

#include <cmath>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {

const ConfigFields::Json& ConfigFields::found(const char* key) const {
  if (!has(key)) throw_user("{}: {}{} is missing", file_, prefix_, key);
  return json_[key];
}

void ConfigFields::wrong(const std::string& key, std::string_view allowed) const {
  const std::string text = json_[key].dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  throw_user("{}: {}{} = {}: allowed {}", file_, prefix_, printable(key), printable(text, 60),
             allowed);
}

std::int64_t ConfigFields::size(const char* key, std::optional<std::int64_t> fallback,
                                std::int64_t least) const {
  if (!has(key) && fallback) return *fallback;
  const Json& v = found(key);
  // Unsigned is what the parser makes of every integer without a sign.
  const bool fits = v.is_number_unsigned() &&
                    v.get<std::uint64_t>() <= static_cast<std::uint64_t>(kConfigSizeLimit);
  if (!fits || v.get<std::int64_t>() < least) {
    wrong(key, fmt::format("an integer from {} to {}", least, kConfigSizeLimit));
  }
  return v.get<std::int64_t>();
}

double ConfigFields::number(const char* key, NumberRange range,
                            std::optional<double> fallback) const {
  if (!has(key) && fallback) return *fallback;
  const Json& v = found(key);
  const double value = v.is_number() ? v.get<double>() : std::nan("");
  if (!(range.least <= value && value <= range.most)) {
    wrong(key, range.least == 0 && range.most == kNotNegative.most ? "a number from 0"
               : range.most == kPositive.most
                   ? fmt::format("a number from {:.3g}", range.least)
                   : fmt::format("a number from {:g} to {:g}", range.least, range.most));
  }
  return value;
}

bool ConfigFields::boolean(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!json_[key].is_boolean()) wrong(key, "true or false");
  return json_[key].get<bool>();
}

std::string ConfigFields::string(const char* key, std::optional<std::string> fallback) const {
  if (!has(key) && fallback) return *fallback;
  const Json& v = found(key);
  if (!v.is_string()) wrong(key, "text");
  return v.get<std::string>();
}

}  // namespace thimble
