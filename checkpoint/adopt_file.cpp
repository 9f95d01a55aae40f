#include "checkpoint/adopt_file.h"

#include <algorithm>
#include <tuple>

#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/manifest.h"
#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"

namespace thimble {
namespace {

// The room for what a checkpoint says of itself, which is written when the file becomes one.
constexpr std::size_t kMetadataBytes = 64 * 1024;
constexpr std::size_t kUuidDigits = 32;

// The runs, in order, are all bytes of the tensors and nothing else.
void check_runs(std::vector<PlacedTensor> placed, std::span<const WrittenRun> runs) {
  std::sort(placed.begin(), placed.end(),
            [](const PlacedTensor& a, const PlacedTensor& b) { return a.offset < b.offset; });
  auto run = runs.begin();
  for (const PlacedTensor& tensor : placed) {
    std::int64_t at = tensor.offset;
    for (; run != runs.end() && run->begin == at && at < tensor.offset + tensor.bytes; ++run)
      at = run->end;
    TH_CHECK(tensor.bytes == 0 || at == tensor.offset + tensor.bytes, "{}: written up to {} of {}",
             checkpoint_key(tensor.tensor), at - tensor.offset, tensor.bytes);
  }
  TH_CHECK(run == runs.end(), "bytes from {} on are no tensor's", run->begin);
}

// Brings everything but the tensors into the file, from an empty one of the same layout, and adds
// its checksums to the runs.
void fill_between(const File& from, const File& to, const CheckpointIo& io,
                  std::vector<WrittenRun>& runs) {
  const std::int64_t size = to.size();
  TH_CHECK(from.size() == size, "{} has another layout", from.path().string());
  std::vector<WrittenRun> between;
  std::int64_t at = 0;
  const auto add = [&](std::int64_t end) {
    while (at < end) {
      const std::int64_t next =
          std::min(end, (at / kCheckpointBlockBytes + 1) * kCheckpointBlockBytes);
      between.push_back({at, next});
      at = next;
    }
  };
  for (const WrittenRun& run : runs) {
    add(run.begin);
    at = run.end;
  }
  add(size);
  for (WrittenRun& run : between) {
    const std::span<std::byte> bytes =
        io.scratch.first(static_cast<std::size_t>(run.end - run.begin));
    io.engine.read(from, run.begin, bytes);
    io.engine.write(to, run.begin, bytes);
    run.crc = crc32c(bytes);
  }
  runs.insert(runs.end(), between.begin(), between.end());
}

// The checksums of blocks, from those of the runs that make them up.
std::vector<std::uint32_t> join_runs(std::vector<WrittenRun>& runs, std::int64_t size) {
  std::sort(runs.begin(), runs.end(),
            [](const WrittenRun& a, const WrittenRun& b) { return a.begin < b.begin; });
  std::vector<std::uint32_t> checksums;
  std::int64_t at = 0;
  for (const WrittenRun& run : runs) {
    TH_CHECK(run.begin == at && run.end > at &&
                 (run.end - 1) / kCheckpointBlockBytes == at / kCheckpointBlockBytes,
             "bytes {} to {} follow on {}", run.begin, run.end, at);
    if (at % kCheckpointBlockBytes == 0) {
      checksums.push_back(run.crc);
    } else {
      checksums.back() = crc32c_joined(checksums.back(), run.crc, run.end - run.begin);
    }
    at = run.end;
  }
  TH_CHECK(at == size, "{} of {} bytes have checksums", at, size);
  return checksums;
}

}  // namespace

std::vector<PlacedTensor> make_adoptable_file(const std::filesystem::path& path,
                                              std::span<const CheckpointTensor> tensors,
                                              bool sparse) {
  const auto placed =
      create_hdf5_layout(path,
                         // As long as those of a checkpoint: the layout depends on their lengths.
                         {.uuid = std::string(kUuidDigits, '0'),
                          .step = 0,
                          .metadata = std::string(kMetadataBytes, ' ')},
                         tensors);
  const File file = File::open_read_write(path);
  if (!sparse) file.reserve(file.size());
  return placed;
}

bool is_adoptable(const CheckpointTarget& target) {
  return target.metadata.size() <= kMetadataBytes;
}

std::filesystem::path adopt_file(const CheckpointTarget& target, const WrittenFile& file) {
  const auto final_path = target.directory / fmt::format("ckpt-{}", target.step);
  StagedCheckpoint staged(final_path);
  Manifest manifest{.uuid = make_checkpoint_uuid(),
                    .step = target.step,
                    .file = std::string(kCheckpointDataName),
                    .file_bytes = 0,
                    .checksums = {},
                    .tensors = {}};
  failpoint("checkpoint.create");
  const std::filesystem::path like = staged.path() / "like.h5";
  std::string metadata = target.metadata;
  metadata.resize(kMetadataBytes, ' ');  // spaces mean nothing in JSON
  const std::vector<PlacedTensor> placed =
      create_hdf5_layout(like, {manifest.uuid, target.step, metadata}, file.tensors);
  for (const PlacedTensor& t : placed)
    manifest.tensors.push_back({t.tensor.name, t.tensor.slot, t.offset, t.bytes});
  failpoint("checkpoint.create");
  std::sort(manifest.tensors.begin(), manifest.tensors.end(),
            [](const ManifestTensor& a, const ManifestTensor& b) {
              return std::tie(a.name, a.slot) < std::tie(b.name, b.slot);
            });
  std::vector<WrittenRun> runs = file.runs;
  std::sort(runs.begin(), runs.end(),
            [](const WrittenRun& a, const WrittenRun& b) { return a.begin < b.begin; });
  check_runs(placed, runs);
  const File data = File::open_read_write(file.path);
  fill_between(File::open_read(like), data, target.io, runs);
  std::filesystem::remove(like);
  manifest.file_bytes = data.size();
  manifest.checksums = join_runs(runs, manifest.file_bytes);
  failpoint("checkpoint.sync");
  data.data_sync();
  failpoint("checkpoint.sync");
  std::filesystem::create_hard_link(file.path, staged.path() / kCheckpointDataName);
  failpoint("checkpoint.manifest");
  write_file_atomic(staged.path() / kManifestName, manifest_text(manifest));
  failpoint("checkpoint.manifest");
  failpoint("checkpoint.publish");
  staged.publish();
  failpoint("checkpoint.publish");
  return final_path;
}

}  // namespace thimble
