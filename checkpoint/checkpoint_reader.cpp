#include "checkpoint/checkpoint_reader.h"

#include <algorithm>

#include "checkpoint/checkpoint_damage.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::size_t kShownNames = 3;

void require_undamaged(const CheckpointIo& io, const File& file, const Manifest& manifest) {
  const auto damaged = find_damaged_blocks(io, file, manifest, OnUnreadable::kThrow);
  if (damaged.empty()) return;
  throw_user(
      "{}: the checkpoint is damaged: the checksum of bytes {} to {} does not match (holding {}); "
      "{} of {} blocks are damaged",
      file.path().string(), damaged.front().begin, damaged.front().end,
      damaged.front().owners(kShownNames), damaged.size(), manifest.checksums.size());
}

}  // namespace

CheckpointReader CheckpointReader::open(const std::filesystem::path& path, CheckpointIo io,
                                        CheckpointCheck check) {
  const Manifest manifest = read_manifest(path);
  CheckpointReader reader(path, io, File::open_read(path / manifest.file));
  require_size(reader.file_, manifest, path);
  if (check == CheckpointCheck::kEveryByte) require_undamaged(io, reader.file_, manifest);
  reader.adopt(read_hdf5_layout(reader.file_.path()), manifest);
  return reader;
}

void CheckpointReader::adopt(CheckpointLayout layout, const Manifest& manifest) {
  const std::string file = file_.path().string();
  if (layout.header.uuid != manifest.uuid || layout.header.step != manifest.step) {
    throw_user("{}: the file is of checkpoint {} at step {}, its manifest of {} at step {}", file,
               printable(layout.header.uuid), layout.header.step, printable(manifest.uuid),
               manifest.step);
  }
  header_ = std::move(layout.header);
  for (PlacedTensor& placed : layout.tensors) {
    std::string key = checkpoint_key(placed.tensor);
    tensors_.emplace(std::move(key), std::move(placed));
  }
  bool agree = manifest.tensors.size() == tensors_.size();
  for (const ManifestTensor& tensor : manifest.tensors) {
    const auto found = tensors_.find(fmt::format("{}/{}", tensor.name, tensor.slot));
    agree = agree && found != tensors_.end() && found->second.offset == tensor.offset &&
            found->second.bytes == tensor.bytes;
  }
  if (!agree) throw_user("{}: the tensors in it are not those of its manifest", file);
}

const CheckpointTensor* CheckpointReader::find(std::string_view name, std::string_view slot) const {
  const auto found = tensors_.find(fmt::format("{}/{}", name, slot));
  return found == tensors_.end() ? nullptr : &found->second.tensor;
}

void CheckpointReader::read(std::string_view name, std::string_view slot, std::int64_t byte_offset,
                            std::span<std::byte> destination) const {
  const auto found = tensors_.find(fmt::format("{}/{}", name, slot));
  TH_CHECK(found != tensors_.end(), "no tensor '{}/{}'", name, slot);
  const PlacedTensor& placed = found->second;
  const auto size = narrow<std::int64_t>(destination.size());
  TH_CHECK(byte_offset >= 0 && byte_offset <= placed.bytes && size <= placed.bytes - byte_offset,
           "bytes {} to {} of '{}', which has {}", byte_offset, byte_offset + size, found->first,
           placed.bytes);
  io_.engine.read(file_, placed.offset + byte_offset, destination);
}

void CheckpointReader::require(std::span<const CheckpointTensor> expected) const {
  std::vector<CheckpointTensor> found;
  for (const auto& [key, placed] : tensors_) found.push_back(placed.tensor);
  require_tensors(expected, found, path_.string());
}

}  // namespace thimble
