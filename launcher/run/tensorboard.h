// Writes one TensorBoard event file of scalars. Record framing: length (8 bytes, little-endian),
// masked CRC32C of the length, the message, masked CRC32C of the message. Called by RunLog only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "launcher/run/append_file.h"

namespace thimble {

class TensorBoardWriter {
 public:
  using Scalar = std::pair<std::string_view, double>;  ///< tag, value

  /// Creates a new event file in `directory` whose plots replace what earlier files there say about
  /// `first_step` and later steps.
  TensorBoardWriter(const std::filesystem::path& directory, std::int64_t first_step);

  void scalars(std::int64_t step, std::span<const Scalar> values);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  AppendFile file_;
};

/// One framed record.
std::string tensorboard_record(std::string_view message);

}  // namespace thimble
