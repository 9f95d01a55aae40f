// Typed access to the fields of one JSON object of a configuration, with errors that name the file,
// the field, what was found and what is allowed. Part of models/, not for use elsewhere.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace thimble {

/// The largest size that a configuration may name.
inline constexpr std::int64_t kConfigSizeLimit = std::int64_t{1} << 24;

/// Values a number may take; both ends are allowed. NaN is never within.
struct NumberRange {
  double least, most;
};
/// What is a normal number in f32, the type in which it is used.
inline constexpr NumberRange kPositive{1.1754943508222875e-38, 3.4028234663852886e38};
inline constexpr NumberRange kNotNegative{0, 3.4028234663852886e38};

/// A field that is missing takes the fallback; without one, and for null, that is an error. The
/// maybe_ functions take null for missing.
class ConfigFields {
 public:
  using Json = nlohmann::json;
  ConfigFields(const Json& json, std::string_view file, std::string prefix = "")
      : json_(json), file_(file), prefix_(std::move(prefix)) {}

  bool has(const char* key) const { return json_.contains(key); }
  bool has_value(const char* key) const { return has(key) && !json_[key].is_null(); }

  /// From `least` to kConfigSizeLimit.
  std::int64_t size(const char* key, std::optional<std::int64_t> fallback = {},
                    std::int64_t least = 1) const;
  double number(const char* key, NumberRange range, std::optional<double> fallback = {}) const;
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key, std::optional<std::string> fallback = {}) const;

  std::optional<std::int64_t> maybe_size(const char* key) const {
    return has_value(key) ? std::optional(size(key)) : std::nullopt;
  }
  std::optional<double> maybe_number(const char* key, NumberRange range) const {
    return has_value(key) ? std::optional(number(key, range)) : std::nullopt;
  }

  const Json& raw(const char* key) const { return json_[key]; }
  const Json& all() const { return json_; }
  std::string_view file() const { return file_; }
  /// What stands before a key in messages: "rope_scaling.".
  const std::string& prefix() const { return prefix_; }

  [[noreturn]] void wrong(const std::string& key, std::string_view allowed) const;

 private:
  const Json& found(const char* key) const;

  const Json& json_;
  std::string_view file_;
  std::string prefix_;
};

}  // namespace thimble
