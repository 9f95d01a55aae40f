#include "checkpoint/checkpoint_damage.h"

#include <algorithm>

#include "checkpoint/block_checksums.h"
#include "checkpoint/checkpoint_reader.h"
#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/transfer_memory.h"

namespace thimble {
namespace {

constexpr std::size_t kWindowBlocks = 8;
constexpr std::int64_t kMemoryAlignment = 4096;
constexpr std::size_t kShownBytes = 200;

std::vector<DamagedTensor> tensors_in(const Manifest& manifest, std::int64_t begin,
                                      std::int64_t end) {
  std::vector<const ManifestTensor*> found;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.offset < end && begin < tensor.offset + tensor.bytes) found.push_back(&tensor);
  }
  std::sort(found.begin(), found.end(),
            [](const ManifestTensor* a, const ManifestTensor* b) { return a->offset < b->offset; });
  std::vector<DamagedTensor> parts;
  for (const ManifestTensor* tensor : found) {
    parts.push_back({tensor->name, tensor->slot, std::max(begin, tensor->offset) - tensor->offset,
                     std::min(end, tensor->offset + tensor->bytes) - tensor->offset});
  }
  return parts;
}

/// Past the page cache if whole blocks of the disk make up the file.
File open_to_examine(const std::filesystem::path& path, std::int64_t bytes) {
  try {
    File file = File::open_direct(path);
    const std::int64_t alignment = file.direct_alignment();
    const bool suits = alignment > 0 && bytes % alignment == 0 && kMemoryAlignment % alignment == 0;
    if (suits) return file;
  } catch (const UserError&) {
    // It may be readable all the same.
  }
  return File::open_read(path);
}

}  // namespace

std::string DamagedBlock::owners(std::size_t max_tensors) const {
  if (tensors.empty()) return "file metadata";
  std::vector<std::string> shown;
  for (const DamagedTensor& tensor : tensors) {
    if (shown.size() == max_tensors) break;
    shown.push_back(fmt::format("{} bytes {} to {}",
                                printable(tensor.name + "/" + tensor.slot, kShownBytes),
                                tensor.begin, tensor.end));
  }
  const std::size_t rest = tensors.size() - shown.size();
  return join(shown) + (rest == 0 ? "" : fmt::format(" and {} more", rest));
}

std::vector<DamagedBlock> find_damaged_blocks(const CheckpointIo& io, const File& file,
                                              const Manifest& manifest,
                                              OnUnreadable on_unreadable) {
  UnreadableBlocks unreadable;
  const auto found = block_checksums(io, file, manifest.file_bytes,
                                     on_unreadable == OnUnreadable::kList ? &unreadable : nullptr);
  TH_CHECK_EQ(found.size(), manifest.checksums.size());
  std::vector<DamagedBlock> damaged;
  for (std::size_t block = 0; block < found.size(); ++block) {
    const auto why = unreadable.find(narrow<std::int64_t>(block));
    if (why == unreadable.end() && found[block] == manifest.checksums[block]) continue;
    const std::int64_t begin = narrow<std::int64_t>(block) * kCheckpointBlockBytes;
    const std::int64_t end = std::min(begin + kCheckpointBlockBytes, manifest.file_bytes);
    damaged.push_back(
        {begin, end, why == unreadable.end() ? "" : why->second, tensors_in(manifest, begin, end)});
  }
  return damaged;
}

CheckpointDamage examine_checkpoint(const std::filesystem::path& checkpoint, FileEngine& engine) {
  CheckpointDamage damage;
  try {
    const Manifest manifest = read_manifest(checkpoint);
    damage.file = checkpoint / manifest.file;
    const File file = open_to_examine(damage.file, manifest.file_bytes);
    require_size(file, manifest, checkpoint);
    const auto blocks =
        static_cast<std::size_t>(ceil_div(manifest.file_bytes, kCheckpointBlockBytes));
    const std::size_t bytes = std::clamp<std::size_t>(blocks, 1, kWindowBlocks) *
                              static_cast<std::size_t>(kCheckpointBlockBytes);
    const TransferMemory memory(narrow<std::int64_t>(bytes));
    damage.blocks = find_damaged_blocks({engine, memory.all().first(bytes)}, file, manifest,
                                        OnUnreadable::kList);
    damage.bytes = manifest.file_bytes;
    // Damaged structures of the file are named by their block.
    if (damage.blocks.empty()) {
      CheckpointReader::open(checkpoint, {engine, {}}, CheckpointCheck::kManifest);
    }
  } catch (const UserError& error) {
    damage.problem = error.what();
  } catch (const SystemError& error) {
    damage.problem = error.what();
  }
  return damage;
}

}  // namespace thimble
