// The HDF5 side of a checkpoint: creates the data file with every dataset in place but unwritten,
// and reads back what lies where. Moves no tensor bytes. HDF5 keeps process-wide state, so these
// functions take turns.
//
// Layout: root attributes format, format_major, format_minor, uuid, step, block_bytes;
// /state/metadata (bytes); /params/<name>/<slot>, contiguous, little-endian, dimensions reversed
// and attributes `transposed` and `logical_shape` added where the bytes are transposed. bf16 is a
// custom float type of 2 bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"

namespace thimble {

struct CheckpointHeader {
  std::string uuid;
  std::int64_t step = 0;
  /// JSON text of the caller; not looked into.
  std::string metadata;
};

struct CheckpointLayout {
  CheckpointHeader header;
  /// Sorted by name, then slot.
  std::vector<PlacedTensor> tensors;
};

/// Creates the file and closes it; afterwards its HDF5 metadata never changes. Returns the tensors
/// in the given order.
std::vector<PlacedTensor> create_hdf5_layout(const std::filesystem::path& path,
                                             const CheckpointHeader& header,
                                             std::span<const CheckpointTensor> tensors);

/// UserError naming the dataset if the file is not such a layout or if a range leaves the file.
CheckpointLayout read_hdf5_layout(const std::filesystem::path& path);

}  // namespace thimble
