// generation_config.json of a model directory: how its makers want it to be sampled.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

inline constexpr const char* kGenerationConfigName = "generation_config.json";

/// What the file says; what it leaves out stays empty.
struct GenerationConfig {
  std::vector<std::int32_t> eos_ids;
  bool do_sample = false;
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
};

/// Parses the text of the file; keys that only change how text is made with options we do not have
/// are left alone. Throws UserError naming `file`, the key and what is allowed.
GenerationConfig parse_generation_config(std::string_view text, std::string_view file);

/// The text of such a file that also ends at `end`: `text` (of a file that parses; empty: none)
/// with its list of ends, or `ends` where it has none, and `end` behind it. As it is if `end` is
/// among them.
std::string with_end_id(std::string_view text, std::vector<std::int32_t> ends, std::int32_t end);

/// The settings of <directory>/generation_config.json; empty if there is none.
GenerationConfig load_generation_config(const std::filesystem::path& directory);

}  // namespace thimble
