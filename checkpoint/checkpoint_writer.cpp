#include "checkpoint/checkpoint_writer.h"

#include <fcntl.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdio>

#include "checkpoint/block_checksums.h"
#include "checkpoint/hdf5_layout.h"
#include "checkpoint/manifest.h"
#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"

namespace thimble {

std::string make_checkpoint_uuid() {
  std::array<std::uint8_t, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw_errno("getrandom", "uuid");
  }
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

StagedCheckpoint::StagedCheckpoint(std::filesystem::path final_path)
    : final_path_(std::move(final_path)), path_(final_path_.string() + ".tmp") {
  remove_tree(path_);
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error) throw_system("cannot create {}: {}", path_.string(), error.message());
}

StagedCheckpoint::~StagedCheckpoint() {
  if (!published_) remove_tree(path_);
}

void StagedCheckpoint::publish() {
  if (std::filesystem::exists(final_path_)) {
    // Swapped in one step: at no moment is this step without a checkpoint.
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) != 0) {
      throw_errno("renameat2", final_path_.string());
    }
  } else {
    rename_path(path_, final_path_);
  }
  published_ = true;
  sync_directory(final_path_.parent_path());
  remove_tree(path_);
}

namespace {

template <typename Action>
void phase(std::string_view name, Action&& action) {
  failpoint(name);
  action();
  failpoint(name);
}

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointIo io, const std::filesystem::path& directory,
                                   CheckpointContents contents)
    : io_(io),
      final_path_(directory / fmt::format("ckpt-{}", contents.step)),
      contents_(std::move(contents)),
      uuid_(make_checkpoint_uuid()) {
  phase("checkpoint.create", [this] { create(); });
}

void CheckpointWriter::create() {
  staged_.emplace(final_path_);
  const auto path = staged_->path() / kCheckpointDataName;
  const auto placed =
      create_hdf5_layout(path, {uuid_, contents_.step, contents_.metadata}, contents_.tensors);
  for (const PlacedTensor& tensor : placed) {
    const auto [place, added] =
        tensors_.emplace(checkpoint_key(tensor.tensor), Progress{tensor, {}});
    TH_CHECK(added, "tensor '{}' twice", place->first);
  }
  file_ = File::open_read_write(path);
  file_bytes_ = file_->size();
  file_->reserve(file_bytes_);
}

PlacedTensor& CheckpointWriter::note_range(std::string_view name, std::string_view slot,
                                           std::int64_t byte_offset, std::int64_t bytes) {
  const auto found = tensors_.find(fmt::format("{}/{}", name, slot));
  TH_CHECK(found != tensors_.end(), "no tensor '{}/{}'", name, slot);
  auto& [placed, ranges] = found->second;
  TH_CHECK(byte_offset >= 0 && byte_offset <= placed.bytes && bytes <= placed.bytes - byte_offset,
           "bytes {} to {} of '{}', which has {}", byte_offset, byte_offset + bytes, found->first,
           placed.bytes);
  if (bytes == 0) return placed;
  const std::int64_t end = byte_offset + bytes;
  const auto next = ranges.upper_bound(byte_offset);
  TH_CHECK(next == ranges.end() || next->first >= end, "'{}' written twice", found->first);
  TH_CHECK(next == ranges.begin() || std::prev(next)->second <= byte_offset, "'{}' written twice",
           found->first);
  // Joined with the range before it, so that a tensor written in order keeps one range.
  if (next != ranges.begin() && std::prev(next)->second == byte_offset) {
    std::prev(next)->second = end;
  } else {
    ranges.emplace_hint(next, byte_offset, end);
  }
  return placed;
}

void CheckpointWriter::write(std::string_view name, std::string_view slot, std::int64_t byte_offset,
                             std::span<const std::byte> bytes) {
  const PlacedTensor& placed =
      note_range(name, slot, byte_offset, narrow<std::int64_t>(bytes.size()));
  if (bytes.empty()) return;
  phase("checkpoint.write", [&] { io_.engine.write(*file_, placed.offset + byte_offset, bytes); });
}

void CheckpointWriter::written_elsewhere(std::string_view name, std::string_view slot,
                                         std::int64_t byte_offset, std::int64_t bytes) {
  note_range(name, slot, byte_offset, bytes);
}

std::filesystem::path CheckpointWriter::data_path(const std::filesystem::path& directory,
                                                  std::int64_t step) {
  return directory / fmt::format("ckpt-{}.tmp", step) / kCheckpointDataName;
}

std::filesystem::path CheckpointWriter::commit() {
  check_complete();
  std::vector<std::uint32_t> checksums;
  phase("checkpoint.checksum", [&] { checksums = block_checksums(io_, *file_, file_bytes_); });
  return publish(std::move(checksums));
}

std::filesystem::path CheckpointWriter::publish(std::vector<std::uint32_t> checksums) {
  phase("checkpoint.sync", [&] { file_->data_sync(); });
  phase("checkpoint.manifest", [&] { write_manifest(std::move(checksums)); });
  phase("checkpoint.publish", [&] { staged_->publish(); });
  return final_path_;
}

void CheckpointWriter::check_complete() const {
  for (const auto& [key, progress] : tensors_) {
    std::int64_t written = 0;
    for (const auto& [begin, end] : progress.ranges) written += end - begin;
    TH_CHECK(written == progress.placed.bytes, "'{}': {} of {} bytes were written", key, written,
             progress.placed.bytes);
  }
}

void CheckpointWriter::write_manifest(std::vector<std::uint32_t> checksums) {
  Manifest manifest{uuid_,       contents_.step,       std::string(kCheckpointDataName),
                    file_bytes_, std::move(checksums), {}};
  for (const auto& [key, progress] : tensors_) {
    const PlacedTensor& placed = progress.placed;
    manifest.tensors.push_back(
        {placed.tensor.name, placed.tensor.slot, placed.offset, placed.bytes});
  }
  write_file_atomic(staged_->path() / kManifestName, manifest_text(manifest));
}

SharedCheckpointFile::SharedCheckpointFile(CheckpointIo io, const std::filesystem::path& data_path)
    : io_(io), file_(File::open_read_write(data_path)) {
  for (PlacedTensor& placed : read_hdf5_layout(data_path).tensors) {
    const std::string key = checkpoint_key(placed.tensor);
    tensors_.emplace(key, std::move(placed));
  }
}

void SharedCheckpointFile::write(std::string_view name, std::string_view slot,
                                 std::int64_t byte_offset, std::span<const std::byte> bytes) {
  const auto found = tensors_.find(fmt::format("{}/{}", name, slot));
  TH_CHECK(found != tensors_.end(), "no tensor '{}/{}'", name, slot);
  const PlacedTensor& placed = found->second;
  TH_CHECK(byte_offset >= 0 && byte_offset + narrow<std::int64_t>(bytes.size()) <= placed.bytes);
  if (bytes.empty()) return;
  phase("checkpoint.write", [&] { io_.engine.write(file_, placed.offset + byte_offset, bytes); });
}

}  // namespace thimble
