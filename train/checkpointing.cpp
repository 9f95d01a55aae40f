#include "train/checkpointing.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "parallel/collectives.h"

namespace thimble {
namespace {

// An array of a checkpoint, and this rank's part of it.
struct CheckpointArray {
  CheckpointTensor tensor;
  SavedArray part;
};

CheckpointTensor described(const ParamTable& params, const StateEntry& entry) {
  const ParamInfo& info = params.info(entry.param);
  const bool like_param = entry.slot.like_param;
  const Shape& shape = like_param ? info.shape : entry.slot.whole;
  return {.name = info.name,
          .slot = entry.slot.name,
          .dtype = entry.slot.dtype,
          .shape = {shape.dims().begin(), shape.dims().end()},
          .transposed = like_param && info.transposed()};
}

std::vector<CheckpointArray> arrays_of(const TrainEngine& engine) {
  std::vector<CheckpointArray> arrays;
  for (const SavedArray& part : arrays_to_save(engine.table(), engine.state_step(), engine.rank()))
    arrays.push_back({described(engine.model().params(), *part.entry), part});
  return arrays;
}

// Some rows of an array, in the host's memory while they are leased.
struct Piece {
  const CheckpointArray* array;
  StateUse use;
  std::int64_t offset;  // bytes from the array's begin
};

void add_pieces(const TrainEngine& engine, const CheckpointArray& array, const StateUse& use,
                std::vector<Piece>& pieces) {
  const std::int64_t bytes = piece_bytes(engine.state());
  for (const StateUse& piece : in_pieces(engine.table(), use, bytes))
    pieces.push_back({&array, piece, array.part.entry->range(piece.rows).begin});
}

// What this rank writes.
std::vector<Piece> pieces_to_write(const TrainEngine& engine,
                                   std::span<const CheckpointArray> arrays) {
  std::vector<Piece> pieces;
  for (const CheckpointArray& array : arrays) {
    const auto& [entry, rows, own] = array.part;
    if (own.size > 0)
      add_pieces(engine, array, {entry->id, rows, StateAccess::kRead, true}, pieces);
  }
  return pieces;
}

// All that this rank holds.
std::vector<Piece> pieces_to_read(const TrainEngine& engine,
                                  std::span<const CheckpointArray> arrays) {
  std::vector<Piece> pieces;
  for (const CheckpointArray& array : arrays) {
    const StateEntry& entry = *array.part.entry;
    add_pieces(engine, array,
               {entry.id, entry.held_rows(engine.rank()), StateAccess::kOverwrite, true}, pieces);
  }
  return pieces;
}

// Runs body(piece, its bytes) while each is leased.
template <typename Body>
void for_leased(StateResidency& state, std::span<const Piece> pieces, Body&& body) {
  std::vector<StateUse> order;
  for (const Piece& piece : pieces) order.push_back(piece.use);
  state.announce(order);
  for (const Piece& piece : pieces) {
    const StateLease lease = state.acquire(piece.use);
    body(piece, std::span(static_cast<std::byte*>(lease.tensor().raw()),
                          static_cast<std::size_t>(lease.tensor().nbytes())));
  }
}

// Runs one stage of a save on this rank; if it fails on any, it fails on all, with the first rank's
// reason.
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
  RankFile(const CheckpointIo& io, std::filesystem::path directory, std::int64_t step)
      : io_(io), directory_(std::move(directory)), step_(step) {}
  void create(CheckpointContents contents) {
    writer_.emplace(io_, directory_, std::move(contents));
  }
  void open() { shared_.emplace(io_, CheckpointWriter::data_path(directory_, step_)); }
  void write(const Piece& piece, std::span<const std::byte> bytes) {
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
    const auto& [tensor, part] = array;
    const std::int64_t end = part.own.end();
    writer_->written_elsewhere(tensor.name, tensor.slot, 0, part.own.begin);
    writer_->written_elsewhere(tensor.name, tensor.slot, end, part.entry->bytes() - end);
  }
  void sync() {
    if (shared_) shared_->sync();
  }
  // Rank 0's; the others know the path.
  std::filesystem::path commit() {
    return writer_ ? writer_->commit() : directory_ / fmt::format("ckpt-{}", step_);
  }
  std::int64_t written() const { return written_; }

 private:
  CheckpointIo io_;
  std::filesystem::path directory_;
  std::int64_t step_;
  std::optional<CheckpointWriter> writer_;
  std::optional<SharedCheckpointFile> shared_;
  std::int64_t written_ = 0;
};

// That the ranks together have written what the arrays hold; each says how much it wrote.
void check_written(Communicator& comm, std::span<const CheckpointArray> arrays, std::int64_t own) {
  const auto all = all_gather_control(comm, "checkpoint bytes", std::as_bytes(std::span(&own, 1)));
  std::int64_t written = 0, wanted = 0;
  for (std::size_t r = 0; r < all.size() / sizeof(own); ++r) {
    std::int64_t theirs = 0;
    std::memcpy(&theirs, all.data() + r * sizeof(theirs), sizeof(theirs));
    written += theirs;
  }
  for (const CheckpointArray& array : arrays) wanted += array.part.entry->bytes();
  TH_CHECK(written == wanted, "{} of {} bytes were written", written, wanted);
}

std::vector<CheckpointTensor> tensors_of(std::span<const CheckpointArray> arrays) {
  std::vector<CheckpointTensor> tensors;
  for (const CheckpointArray& array : arrays) tensors.push_back(array.tensor);
  return tensors;
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  if (!engine.arena().device().planning) failpoint("checkpoint.scratch");
  const Reservation scratch =
      engine.arena().pinned().reserve(MemoryTag::kIo, kCheckpointScratchBytes, "checkpoint blocks");
  const std::vector<CheckpointArray> arrays = arrays_of(engine);
  const std::vector<Piece> pieces = pieces_to_write(engine, arrays);
  if (engine.arena().device().planning) {
    for_leased(engine.state(), pieces, [](const Piece&, std::span<std::byte>) {});
    return {};
  }
  Communicator& comm = engine.comm();
  RankFile file({files,
                 {static_cast<std::byte*>(scratch.data()),
                  static_cast<std::size_t>(kCheckpointScratchBytes)}},
                directory, state.step);
  together(comm, "checkpoint created", [&] {
    if (comm.rank() != 0) return;
    file.create({.step = state.step,
                 .metadata = checkpoint_metadata(state, identity),
                 .tensors = tensors_of(arrays)});
  });
  together(comm, "checkpoint written", [&] {
    if (comm.rank() != 0) file.open();
    for_leased(engine.state(), pieces, [&](const Piece& piece, std::span<const std::byte> bytes) {
      file.write(piece, bytes);
    });
    for (const CheckpointArray& array : arrays) file.note_others(array);
    file.sync();
  });
  check_written(comm, arrays, file.written());
  std::filesystem::path saved;
  together(comm, "checkpoint committed", [&] { saved = file.commit(); });
  return saved;
}

TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader) {
  engine.keep_state_of(std::max<std::int64_t>(1, checkpoint_state(reader).step));
  const std::vector<CheckpointArray> arrays = arrays_of(engine);
  reader.require(tensors_of(arrays));
  for_leased(engine.state(), pieces_to_read(engine, arrays),
             [&](const Piece& piece, std::span<std::byte> bytes) {
               const CheckpointTensor& tensor = piece.array->tensor;
               reader.read(tensor.name, tensor.slot, piece.offset, bytes);
             });
  const TrainState state = checkpoint_state(reader);
  engine.refresh_weights(state.step);
  return state;
}

}  // namespace thimble
