#include "checkpoint/save_state.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "checkpoint/checkpoint_writer.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// Runs body(piece, its bytes) while each is leased.
template <typename Body>
void for_leased(StateResidency& state, std::span<const CheckpointPiece> pieces, Body&& body) {
  std::vector<StateUse> order;
  for (const CheckpointPiece& piece : pieces) order.push_back(piece.use);
  state.announce(order);
  for (const CheckpointPiece& piece : pieces) {
    const StateLease lease = state.acquire(piece.use);
    body(piece, std::span(static_cast<std::byte*>(lease.tensor().raw()),
                          static_cast<std::size_t>(lease.tensor().nbytes())));
  }
}

// Runs one stage of a save on this rank; if it fails on any rank, it fails on all, with the first
// rank's reason.
template <typename Stage>
void together(Communicator& comm, const std::string& name, Stage&& stage) {
  std::string reason;
  try {
    stage();
  } catch (const std::runtime_error& e) {  // a UserError too: a path that was writable at the start
    reason = e.what();
  }
  const std::string failed = first_reason(comm, name, reason);
  if (!failed.empty()) throw CheckpointNotSaved(failed);
}

// The file of a save as one rank sees it: rank 0 makes it and ends it, the others write into it.
class RankFile {
 public:
  explicit RankFile(const CheckpointTarget& target) : target_(target) {}
  void create(std::vector<CheckpointTensor> tensors) {
    writer_.emplace(
        target_.io, target_.directory,
        CheckpointContents{
            .step = target_.step, .metadata = target_.metadata, .tensors = std::move(tensors)});
  }
  void open() {
    shared_.emplace(target_.io, CheckpointWriter::data_path(target_.directory, target_.step));
  }
  void write(const CheckpointPiece& piece, std::span<const std::byte> bytes) {
    const CheckpointTensor& tensor = piece.array->tensor;
    if (writer_) {
      writer_->write(tensor.name, tensor.slot, piece.offset, bytes);
    } else {
      shared_->write(tensor.name, tensor.slot, piece.offset, bytes);
    }
    written_ += static_cast<std::int64_t>(bytes.size());
  }
  // All of an array but this rank's part is written by the others.
  void note_others(const CheckpointArray& array) {
    if (!writer_) return;
    const CheckpointTensor& tensor = array.tensor;
    const std::int64_t end = array.own.end();
    writer_->written_elsewhere(tensor.name, tensor.slot, 0, array.own.begin);
    writer_->written_elsewhere(tensor.name, tensor.slot, end, array.entry->bytes() - end);
  }
  void sync() {
    if (shared_) shared_->sync();
  }
  // Rank 0 gives the checkpoint its name; the others know the path.
  std::filesystem::path commit() {
    return writer_ ? writer_->commit() : target_.directory / fmt::format("ckpt-{}", target_.step);
  }
  std::int64_t written() const { return written_; }

 private:
  const CheckpointTarget& target_;
  std::optional<CheckpointWriter> writer_;
  std::optional<SharedCheckpointFile> shared_;
  std::int64_t written_ = 0;
};

// The state of a rank that is alone, in the order of the file.
class LeasedBlocks {
 public:
  LeasedBlocks(const CheckpointState& saved, CheckpointWriter& writer,
               std::span<const CheckpointPiece> pieces)
      : state_(saved.state) {
    for (const CheckpointPiece& piece : pieces) {
      const CheckpointTensor& tensor = piece.array->tensor;
      const std::int64_t begin = writer.place_of(tensor.name, tensor.slot).offset + piece.offset;
      const std::int64_t bytes = piece.array->entry->range(piece.use.rows).size;
      if (bytes == 0) continue;
      placed_.push_back({begin, begin + bytes, piece.use});
      writer.written_elsewhere(tensor.name, tensor.slot, piece.offset, bytes);
    }
    std::sort(placed_.begin(), placed_.end(),
              [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
    std::vector<StateUse> order;
    for (const Placed& placed : placed_) order.push_back(placed.use);
    state_.announce(order);
  }

  std::uint32_t fill(std::int64_t begin, std::span<std::byte> block) {
    const std::int64_t end = begin + narrow<std::int64_t>(block.size());
    for (; next_ < placed_.size() && placed_[next_].begin < end; ++next_) {
      const Placed& placed = placed_[next_];
      if (!lease_) lease_.emplace(state_.acquire(placed.use));
      const std::int64_t from = std::max(begin, placed.begin), to = std::min(end, placed.end);
      std::memcpy(block.data() + (from - begin),
                  static_cast<const std::byte*>(lease_->tensor().raw()) + (from - placed.begin),
                  static_cast<std::size_t>(to - from));
      if (to < placed.end) break;
      lease_.reset();
    }
    return crc32c(block);
  }

 private:
  struct Placed {
    std::int64_t begin = 0, end = 0;  // in the file
    StateUse use;
  };
  StateResidency& state_;
  std::vector<Placed> placed_;
  std::size_t next_ = 0;
  std::optional<StateLease> lease_;
};

std::filesystem::path save_alone(const CheckpointState& saved,
                                 std::span<const CheckpointArray> arrays,
                                 std::span<const CheckpointPiece> pieces,
                                 const CheckpointTarget& target) {
  CheckpointWriter writer(
      target.io, target.directory,
      {.step = target.step, .metadata = target.metadata, .tensors = tensors_of(arrays)});
  LeasedBlocks blocks(saved, writer, pieces);
  return writer.write_all(
      [&](std::int64_t begin, std::span<std::byte> block) { return blocks.fill(begin, block); });
}

// Checks that the ranks together have written what the arrays hold; each says how much it wrote.
void check_written(Communicator& comm, std::span<const CheckpointArray> arrays, std::int64_t own) {
  const auto all = all_gather_control(comm, "checkpoint bytes", std::as_bytes(std::span(&own, 1)));
  std::int64_t written = 0, wanted = 0;
  for (std::size_t r = 0; r < all.size() / sizeof(own); ++r) {
    std::int64_t theirs = 0;
    std::memcpy(&theirs, all.data() + r * sizeof(theirs), sizeof(theirs));
    written += theirs;
  }
  for (const CheckpointArray& array : arrays) wanted += array.entry->bytes();
  TH_CHECK(written == wanted, "{} of {} bytes were written", written, wanted);
}

}  // namespace

std::filesystem::path save_state(const CheckpointState& saved, Communicator& comm,
                                 const CheckpointTarget& target) {
  const std::vector<CheckpointArray> arrays =
      checkpoint_arrays(saved.table, saved.step, comm.rank());
  const std::vector<CheckpointPiece> pieces =
      pieces_to_write(saved.table, arrays, piece_bytes(saved.state));
  if (comm.size() == 1) {
    std::filesystem::path path;
    together(comm, "checkpoint", [&] { path = save_alone(saved, arrays, pieces, target); });
    return path;
  }
  RankFile file(target);
  together(comm, "checkpoint created", [&] {
    if (comm.rank() == 0) file.create(tensors_of(arrays));
  });
  together(comm, "checkpoint written", [&] {
    if (comm.rank() != 0) file.open();
    for_leased(saved.state, pieces,
               [&](const CheckpointPiece& piece, std::span<const std::byte> bytes) {
                 file.write(piece, bytes);
               });
    for (const CheckpointArray& array : arrays) file.note_others(array);
    file.sync();
  });
  check_written(comm, arrays, file.written());
  std::filesystem::path path;
  together(comm, "checkpoint committed", [&] { path = file.commit(); });
  return path;
}

void plan_save(const CheckpointState& saved, int rank) {
  const std::vector<CheckpointArray> arrays = checkpoint_arrays(saved.table, saved.step, rank);
  std::vector<CheckpointPiece> pieces =
      pieces_to_write(saved.table, arrays, piece_bytes(saved.state));
  // Of an array, pieces of as many rows take the same.
  const auto same = [](const CheckpointPiece& a, const CheckpointPiece& b) {
    return a.array == b.array && a.use.rows.rows() == b.use.rows.rows();
  };
  pieces.erase(std::unique(pieces.begin(), pieces.end(), same), pieces.end());
  for_leased(saved.state, pieces, [](const CheckpointPiece&, std::span<std::byte>) {});
}

void load_state(const CheckpointState& loaded, int rank, const StateReader& reader) {
  const std::vector<CheckpointArray> arrays = checkpoint_arrays(loaded.table, loaded.step, rank);
  reader.require(tensors_of(arrays));
  for_leased(loaded.state, pieces_to_read(loaded.table, arrays, rank, piece_bytes(loaded.state)),
             [&](const CheckpointPiece& piece, std::span<std::byte> bytes) {
               const CheckpointTensor& tensor = piece.array->tensor;
               reader.read(tensor.name, tensor.slot, piece.offset, bytes);
             });
}

}  // namespace thimble
