#include "checkpoint/checkpoint_reader.h"

#include <algorithm>

#include "checkpoint/block_checksums.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxManifestBytes = 256 * kMiB;
constexpr std::size_t kShownNames = 3;

/// What the bytes [begin, end) of the data file belong to, in words.
std::string owner_of(const Manifest& manifest, std::int64_t begin, std::int64_t end) {
  std::vector<std::string> names;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.offset < end && begin < tensor.offset + tensor.bytes) {
      names.push_back(printable(tensor.name + "/" + tensor.slot, 200));
    }
  }
  if (names.empty()) return "file metadata";
  const std::size_t rest = names.size() - std::min(names.size(), kShownNames);
  names.resize(names.size() - rest);
  return fmt::format("{}{}", join(names), rest == 0 ? "" : fmt::format(" and {} more", rest));
}

void verify_blocks(const CheckpointIo& io, const File& file, const Manifest& manifest) {
  const auto found = block_checksums(io, file, manifest.file_bytes);
  std::vector<std::size_t> damaged;
  for (std::size_t block = 0; block < found.size(); ++block) {
    if (found[block] != manifest.checksums[block]) damaged.push_back(block);
  }
  if (damaged.empty()) return;
  const std::int64_t begin = narrow<std::int64_t>(damaged.front()) * kCheckpointBlockBytes;
  const std::int64_t end = std::min(begin + kCheckpointBlockBytes, manifest.file_bytes);
  throw_user(
      "{}: the checkpoint is damaged: the checksum of bytes {} to {} does not match (holding {}); "
      "{} of {} blocks are damaged",
      file.path().string(), begin, end, owner_of(manifest, begin, end), damaged.size(),
      found.size());
}

}  // namespace

CheckpointReader CheckpointReader::open(const std::filesystem::path& path, CheckpointIo io,
                                        CheckpointCheck check) {
  const std::filesystem::path manifest_path = path / kManifestName;
  if (!std::filesystem::is_regular_file(manifest_path)) {
    throw_user("{}: not a checkpoint: it has no {}", path.string(), kManifestName);
  }
  const std::string name = manifest_path.string();
  const Manifest manifest = parse_manifest(read_text_file(manifest_path, kMaxManifestBytes), name);
  CheckpointReader reader(path, io, File::open_read(path / manifest.file));
  if (const std::int64_t size = reader.file_.size(); size != manifest.file_bytes) {
    throw_user("{}: the checkpoint is damaged: the file has {} bytes, {} names {}",
               reader.file_.path().string(), size, name, manifest.file_bytes);
  }
  if (check == CheckpointCheck::kEveryByte) verify_blocks(io, reader.file_, manifest);
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
