#include "launcher/engine/checkpointing.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/numeric.h"
#include "core/device/device_memory.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

// A saved array, and the run of it that this rank holds.
struct SavedArray {
  CheckpointTensor described;
  ParamId id = ParamId::kNone;
  Tensor held;
};

// A run of bytes of a saved array.
struct ByteRun {
  std::int64_t begin = 0, size = 0;
};

std::vector<StateSlot> slots_of(TrainEngine& engine, ParamId id, Slice slice) {
  return saved_slots(engine.optimizer(), engine.model().params().info(id), slice, engine.master(),
                     engine.options().dtype, engine.state_step());
}

std::vector<SavedArray> arrays(TrainEngine& engine) {
  std::vector<SavedArray> all;
  const ParamTable& params = engine.model().params();
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    const std::vector<StateSlot> slots =
        slots_of(engine, id, engine.parallel().updated(id, engine.comm().rank()));
    for (const StateSlot& slot : slots) {
      const StateKey key{id, slot.name};
      // What is no state is the weight itself, or its scales.
      const bool is_state = engine.state().all().contains(key);
      const Shape& shape = slot.like_param ? info.shape : slot.whole;
      all.push_back({.described = {.name = info.name,
                                   .slot = slot.name,
                                   .dtype = slot.dtype,
                                   .shape = {shape.dims().begin(), shape.dims().end()},
                                   .transposed = slot.like_param && info.transposed()},
                     .id = id,
                     .held = is_state               ? engine.state().at(key)
                             : slot.name == "scale" ? engine.store().shard_scales(id)
                                                    : engine.store().shard(id)});
    }
  }
  return all;
}

// Where the part of an array that belongs to a slice of its parameter lies.
ByteRun run_of(TrainEngine& engine, const SavedArray& array, Slice slice) {
  for (const StateSlot& slot : slots_of(engine, array.id, slice)) {
    if (slot.name != array.described.slot) continue;
    const std::int64_t size = dtype_size(slot.dtype);
    return {slot.begin * size, slot.shape.numel() * size};
  }
  throw LogicError(array.described.slot + " is no slot of " + array.described.name);
}

// What rank r writes: where several hold the same, each a part of it, and what all slices share the
// first that has rows.
ByteRun written_by(TrainEngine& engine, const SavedArray& array, int rank) {
  const Slice own = engine.parallel().reduced(array.id, rank);
  const ByteRun run = run_of(engine, array, own);
  for (int r = 0; r < rank; ++r) {
    const Slice earlier = engine.parallel().reduced(array.id, r);
    if (earlier.rows() == 0) continue;
    const ByteRun theirs = run_of(engine, array, earlier);
    if (theirs.begin == run.begin && theirs.size > 0) return {};
  }
  return own.rows() == 0 ? ByteRun{} : run;
}

std::vector<CheckpointTensor> descriptions(const std::vector<SavedArray>& all) {
  std::vector<CheckpointTensor> out;
  for (const SavedArray& array : all) out.push_back(array.described);
  return out;
}

// Bytes of state on their way between a device and the host at once.
constexpr std::int64_t kStagingBytes = 16 * kMiB;

// Runs body(offset from the run's begin, bytes that the host can write) over a run of a tensor's
// bytes; they are the tensor's before (to_host), or become the tensor's after.
template <typename Body>
void for_host_pieces(Arena& arena, const Tensor& tensor, ByteRun run, bool to_host, Body&& body) {
  if (run.size == 0) return;
  auto* at = static_cast<std::byte*>(tensor.raw()) + run.begin;
  if (arena.is_on_host()) return body(0, std::span(at, static_cast<std::size_t>(run.size)));
  const Reservation staging =
      arena.host().reserve(MemoryTag::kIo, kStagingBytes, "state on its way");
  auto* here = static_cast<std::byte*>(staging.data());
  const DeviceMemory& memory = device_memory(arena.device().kind);
  for (std::int64_t done = 0; done < run.size; done += kStagingBytes) {
    const std::int64_t size = std::min(kStagingBytes, run.size - done);
    if (to_host) memory.to_host(here, at + done, size);
    body(done, std::span(here, static_cast<std::size_t>(size)));
    if (!to_host) memory.from_host(at + done, here, size);
  }
}

Json parse_metadata(const CheckpointReader& reader) {
  const Json json = Json::parse(reader.metadata(), nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("state") ||
      !json.contains("model_config")) {
    throw_user("{}: its metadata is not that of a training run", reader.path().string());
  }
  return json;
}

}  // namespace

std::vector<StateSlot> saved_slots(const Optimizer& optimizer, const ParamInfo& info, Slice slice,
                                   MasterFormat master, DType dtype, std::int64_t step) {
  std::vector<StateSlot> slots;
  if (info.trainable && optimizer.int8_weight(info)) {
    slots.push_back(element_slot("weight", DType::kU8, info, slice));
    const Slice groups = int8_scales(info, slice), all = int8_scales(info, whole_slice(info));
    slots.push_back({.name = "scale",
                     .dtype = DType::kF32,
                     .shape = Shape{groups.rows()},
                     .whole = Shape{all.rows()},
                     .begin = groups.begin});
  } else if (!info.trainable || master != MasterFormat::kF32) {
    // f32 weights are their own master, and are saved under that name.
    const bool is_master = info.trainable && dtype == DType::kF32;
    slots.push_back(element_slot(is_master ? "master" : "weight", dtype, info, slice));
  }
  if (!info.trainable) return slots;
  for (StateSlot& slot : all_slots(optimizer, info, slice, master, step))
    slots.push_back(std::move(slot));
  return slots;
}

std::vector<CheckpointTensor> checkpoint_tensors(TrainEngine& engine) {
  return descriptions(arrays(engine));
}

namespace {

// Runs one stage of a save on this rank; if it fails on any, it fails on all, with the first rank's
// reason.
template <typename Stage>
void together(Communicator& comm, const std::string& name, Stage&& stage) {
  constexpr std::size_t kReasonBytes = 512;
  std::string reason;
  try {
    stage();
  } catch (const std::runtime_error& e) {  // a UserError too: a path that was writable at the start
    reason = e.what();
  }
  std::string padded = reason;
  padded.resize(kReasonBytes);
  const auto all = all_gather_control(comm, name, std::as_bytes(std::span(padded)));
  for (std::size_t r = 0; r < all.size() / kReasonBytes; ++r) {
    const auto* text = reinterpret_cast<const char*>(all.data() + r * kReasonBytes);
    if (*text == 0) continue;
    if (comm.size() == 1) throw SystemError(reason);
    throw_system("rank {}: {}", r, std::string(text, ::strnlen(text, kReasonBytes)));
  }
}

void note_other_ranks(TrainEngine& engine, const std::vector<SavedArray>& all,
                      CheckpointWriter& writer) {
  for (int r = 0; r < engine.comm().size(); ++r) {
    if (r == engine.comm().rank()) continue;
    for (const SavedArray& a : all) {
      const ByteRun run = written_by(engine, a, r);
      if (run.size > 0)
        writer.written_elsewhere(a.described.name, a.described.slot, run.begin, run.size);
    }
  }
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  Arena& host = engine.arena().host();
  const Reservation scratch =
      host.reserve(MemoryTag::kIo, kCheckpointScratchBytes, "checkpoint blocks");
  if (engine.arena().device().planning) {
    if (!engine.arena().is_on_host())
      static_cast<void>(host.reserve(MemoryTag::kIo, kStagingBytes, "state on its way"));
    return {};
  }
  const Json metadata{{"model_config", identity.model_config},
                      {"tokenizer", identity.tokenizer},
                      {"job", identity.resolved_job},
                      {"state",
                       {{"step", state.step},
                        {"tokens_seen", state.tokens_seen},
                        {"trained_tokens", state.trained_tokens},
                        {"skipped_steps", state.skipped_steps},
                        {"best_eval_loss", state.best_eval_loss},
                        {"best_step", state.best_step},
                        {"evals_without_gain", state.evals_without_gain},
                        {"last_grad_norm", state.last_grad_norm}}}};
  const CheckpointIo io{
      files,
      {static_cast<std::byte*>(scratch.data()), static_cast<std::size_t>(kCheckpointScratchBytes)}};
  Communicator& comm = engine.comm();
  const auto all = arrays(engine);
  std::optional<CheckpointWriter> writer;      // of rank 0
  std::optional<SharedCheckpointFile> shared;  // of the others
  together(comm, "checkpoint created", [&] {
    if (comm.rank() != 0) return;
    writer.emplace(
        io, directory,
        CheckpointContents{
            .step = state.step, .metadata = metadata.dump(), .tensors = descriptions(all)});
  });
  together(comm, "checkpoint written", [&] {
    if (comm.rank() != 0) {
      shared.emplace(io, CheckpointWriter::data_path(directory, state.step));
    }
    for (const SavedArray& array : all) {
      const ByteRun own = written_by(engine, array, comm.rank());
      if (own.size == 0) continue;
      const ByteRun held = run_of(engine, array, engine.parallel().updated(array.id, comm.rank()));
      const auto write = [&](std::int64_t offset, std::span<const std::byte> bytes) {
        const std::int64_t begin = own.begin + offset;
        if (writer) {
          writer->write(array.described.name, array.described.slot, begin, bytes);
        } else {
          shared->write(array.described.name, array.described.slot, begin, bytes);
        }
      };
      for_host_pieces(engine.arena(), array.held, {own.begin - held.begin, own.size}, true, write);
    }
    if (shared) shared->sync();
  });
  std::filesystem::path saved = directory / fmt::format("ckpt-{}", state.step);
  together(comm, "checkpoint committed", [&] {
    if (!writer) return;
    note_other_ranks(engine, all, *writer);
    saved = writer->commit();
  });
  return saved;
}

TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader) {
  engine.keep_state_of(std::max<std::int64_t>(1, checkpoint_state(reader).step));
  const auto all = arrays(engine);
  reader.require(descriptions(all));
  for (const SavedArray& array : all) {
    const Slice held = engine.parallel().updated(array.id, engine.comm().rank());
    const ByteRun run = run_of(engine, array, held);
    for_host_pieces(engine.arena(), array.held, {0, run.size}, false,
                    [&](std::int64_t offset, std::span<std::byte> bytes) {
                      reader.read(array.described.name, array.described.slot, run.begin + offset,
                                  bytes);
                    });
  }
  engine.refresh_weights();
  return checkpoint_state(reader);
}

TrainState checkpoint_state(const CheckpointReader& reader) {
  const Json json = parse_metadata(reader);
  try {
    const Json& s = json.at("state");
    return {.step = s.at("step"),
            .tokens_seen = s.at("tokens_seen"),
            .trained_tokens = s.at("trained_tokens"),
            .skipped_steps = s.at("skipped_steps"),
            .best_eval_loss = s.at("best_eval_loss"),
            .best_step = s.at("best_step"),
            .evals_without_gain = s.at("evals_without_gain"),
            .last_grad_norm = s.value("last_grad_norm", 0.0)};
  } catch (const nlohmann::json::exception& e) {
    throw_user("{}: its metadata is incomplete: {}", reader.path().string(), e.what());
  }
}

CheckpointIdentity checkpoint_identity(const CheckpointReader& reader) {
  const Json json = parse_metadata(reader);
  try {
    return {.model_config = json.at("model_config"),
            .tokenizer = json.at("tokenizer"),
            .resolved_job = json.at("job")};
  } catch (const nlohmann::json::exception& e) {
    throw_user("{}: its metadata is incomplete: {}", reader.path().string(), e.what());
  }
}

}  // namespace thimble
