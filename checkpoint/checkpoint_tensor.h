// The plain values a checkpoint is described by. Everything here is logical: names and shapes of
// the whole tensor, never of one rank's part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/io/file_engine.h"

namespace thimble {

/// One array of a parameter: its weights, its master copy, or one of its optimizer states.
struct CheckpointTensor {
  /// The parameter's name, e.g. "model.layers.0.mlp.up_proj.weight"; no '/'.
  std::string name;
  /// "weight", "master", "exp_avg", ...; no '/'.
  std::string slot;
  DType dtype = DType::kF32;
  /// The logical shape; row-major unless transposed.
  std::vector<std::int64_t> shape;
  /// The bytes are in the order of the reversed shape.
  bool transposed = false;

  bool operator==(const CheckpointTensor&) const = default;
};

/// "name/slot", the key of messages and tables.
std::string checkpoint_key(const CheckpointTensor& tensor);
/// Bytes of the whole tensor.
std::int64_t checkpoint_bytes(const CheckpointTensor& tensor);
/// "bf16 [2, 3]" or "f32 [2, 3] transposed"
std::string describe(const CheckpointTensor& tensor);

/// A tensor and its bytes' place in the data file.
struct PlacedTensor {
  CheckpointTensor tensor;
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

/// Checksums are kept for blocks of this size; the last block of a file may be shorter.
inline constexpr std::int64_t kCheckpointBlockBytes = std::int64_t{4} << 20;

/// How a checkpoint moves its bytes. The engine must outlive the writer or reader it is given to.
struct CheckpointIo {
  FileEngine& engine;
  /// Holds the blocks being checksummed: at least one block, two or more overlap reading with
  /// checksumming. If empty, two blocks are taken from the heap for the duration of the pass.
  std::span<std::byte> scratch;
  /// That a checkpoint written block by block does not exceed; 0: as fast as it goes.
  std::int64_t bytes_per_second = 0;
};

}  // namespace thimble
