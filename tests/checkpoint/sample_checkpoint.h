// A small checkpoint with awkward tensors, shared by the tests of checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "core/base/random.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble::testing {

inline std::vector<CheckpointTensor> sample_tensors() {
  return {{"model.embed.weight", "weight", DType::kBF16, {7, 13}, false},
          {"model.embed.weight", "master", DType::kF32, {7, 13}, false},
          {"model.up.weight", "master", DType::kF32, {5, 300}, true},
          {"model.up.weight", "exp_avg", DType::kF32, {5, 300}, true},
          {"empty", "master", DType::kF32, {0, 4}, false},
          {"one", "exp_avg_sq", DType::kF32, {1}, false},
          {"scalar", "step", DType::kI32, {}, false},
          {"half", "weight", DType::kF16, {3}, false},
          {"bytes", "codes", DType::kU8, {4097}, false},
          {"three.d", "master", DType::kBF16, {2, 3, 5}, true}};
}

/// The bytes of a tensor at a step.
inline std::vector<std::byte> sample_bytes(const CheckpointTensor& tensor, std::int64_t step) {
  const std::uint64_t seed = hash_name(checkpoint_key(tensor)) + static_cast<std::uint64_t>(step);
  return random_bytes(static_cast<std::size_t>(checkpoint_bytes(tensor)),
                      static_cast<unsigned>(seed));
}

inline CheckpointContents sample_contents(std::int64_t step) {
  return {step, "{\"optimizer\":\"adamw\",\"step\":" + std::to_string(step) + "}",
          sample_tensors()};
}

inline std::filesystem::path save_sample(const std::filesystem::path& directory, FileEngine& engine,
                                         std::int64_t step) {
  CheckpointWriter writer({engine, {}}, directory, sample_contents(step));
  for (const CheckpointTensor& tensor : sample_tensors()) {
    writer.write(tensor.name, tensor.slot, 0, sample_bytes(tensor, step));
  }
  return writer.commit();
}

/// The same, block by block.
inline std::filesystem::path stream_sample(const std::filesystem::path& directory,
                                           FileEngine& engine, std::int64_t step) {
  CheckpointWriter writer({engine, {}}, directory, sample_contents(step));
  for (const CheckpointTensor& tensor : sample_tensors())
    writer.written_elsewhere(tensor.name, tensor.slot, 0, checkpoint_bytes(tensor));
  return writer.write_all([&](std::int64_t begin, std::span<std::byte> block) {
    const std::int64_t end = begin + static_cast<std::int64_t>(block.size());
    for (const CheckpointTensor& tensor : sample_tensors()) {
      const std::vector<std::byte> bytes = sample_bytes(tensor, step);
      const std::int64_t offset = writer.place_of(tensor.name, tensor.slot).offset;
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        const std::int64_t at = offset + static_cast<std::int64_t>(i);
        if (at >= begin && at < end) block[static_cast<std::size_t>(at - begin)] = bytes[i];
      }
    }
    return crc32c(block);
  });
}

/// Whether the reader holds exactly the sample of its step.
inline bool holds_sample(const CheckpointReader& reader) {
  bool same = reader.metadata() == sample_contents(reader.step()).metadata;
  reader.require(sample_tensors());
  for (const CheckpointTensor& tensor : sample_tensors()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(checkpoint_bytes(tensor)));
    reader.read(tensor.name, tensor.slot, 0, bytes);
    same = same && bytes == sample_bytes(tensor, reader.step());
  }
  return same;
}

}  // namespace thimble::testing
