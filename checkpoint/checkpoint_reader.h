// Opens one checkpoint directory, proves that no byte of it has changed, and reads byte ranges of
// its tensors. Places tensors where the manifest and the HDF5 file both say they are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/manifest.h"
#include "checkpoint/state_reader.h"

namespace thimble {

enum class CheckpointCheck : std::uint8_t {
  /// Every block of the data file against its checksum: reads the whole file once.
  kEveryByte,
  /// Manifest, file size and HDF5 metadata only, for listings.
  kManifest,
};

class CheckpointReader final : public StateReader {
 public:
  /// UserError naming the file, and where it can the block and the tensor in it, if the directory
  /// is not a whole and undamaged checkpoint.
  static CheckpointReader open(const std::filesystem::path& path, CheckpointIo io,
                               CheckpointCheck check = CheckpointCheck::kEveryByte);

  const std::filesystem::path& path() const { return path_; }
  std::int64_t step() const override { return header_.step; }
  const std::string& uuid() const { return header_.uuid; }
  const std::string& metadata() const override { return header_.metadata; }
  std::string name() const override { return path_.string(); }
  /// By "name/slot".
  const std::map<std::string, PlacedTensor, std::less<>>& tensors() const { return tensors_; }
  /// Null if there is no such tensor.
  const CheckpointTensor* find(std::string_view name, std::string_view slot) const;

  void read(std::string_view name, std::string_view slot, std::int64_t byte_offset,
            std::span<std::byte> destination) const override;
  void require(std::span<const CheckpointTensor> expected) const override;

 private:
  CheckpointReader(std::filesystem::path path, CheckpointIo io, File file)
      : path_(std::move(path)), io_(io), file_(std::move(file)) {}

  void adopt(CheckpointLayout layout, const Manifest& manifest);

  std::filesystem::path path_;
  CheckpointIo io_;
  File file_;
  CheckpointHeader header_;
  std::map<std::string, PlacedTensor, std::less<>> tensors_;
};

}  // namespace thimble
