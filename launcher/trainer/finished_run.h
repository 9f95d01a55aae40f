// Whether a run is done to its end: trained and exported. <run>/finished.json is written last, when
// the model is in its place; a run without it, or without the model that it lists, is not finished,
// and the same command does what is missing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace thimble {

struct FinishedRun {
  std::int64_t step = 0;           // steps trained
  std::string reason;              // "finished" or "stopped early"
  std::int64_t exported_step = 0;  // whose weights the model has
  std::int64_t wanted_step = 0;    // whose it was to have; another one if that checkpoint was gone
};

/// The record of a run directory; none if there is none, it cannot be read, or a file of the model
/// that it lists is missing or has another size.
std::optional<FinishedRun> read_finished(const std::filesystem::path& run);

/// Writes the record, with the names, sizes and times of the files of <run>/model. Throws
/// SystemError.
void record_finished(const std::filesystem::path& run, const FinishedRun& finished);

/// Whether <run>/model is, to the times of its files, what this run exported: then nobody's work is
/// lost with it.
bool is_own_export(const std::filesystem::path& run);

}  // namespace thimble
