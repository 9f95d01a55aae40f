#include "launcher/engine/checkpointing.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/device/device_memory.h"
#include "parallel/quantised_store.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

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

std::vector<SavedArray> arrays_of(const TrainEngine& engine) {
  return arrays_to_save(engine.table(), engine.state_step(), engine.rank());
}

// Bytes of state on their way between a device and the host at once.
constexpr std::int64_t kStagingBytes = 16 * kMiB;

// Runs body(offset from the run's begin, bytes that the host can write) over a run of a tensor's
// bytes; they are the tensor's before (to_host), or become the tensor's after.
template <typename Body>
void for_host_pieces(Arena& arena, const Tensor& tensor, ByteRange run, bool to_host, Body&& body) {
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

std::vector<CheckpointTensor> checkpoint_tensors(const TrainEngine& engine) {
  std::vector<CheckpointTensor> tensors;
  for (const SavedArray& array : arrays_of(engine))
    tensors.push_back(described(engine.model().params(), *array.entry));
  return tensors;
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
    if (comm.size() == 1) throw CheckpointNotSaved(reason);
    throw CheckpointNotSaved(
        fmt::format("rank {}: {}", r, std::string_view(text, ::strnlen(text, kReasonBytes))));
  }
}

// Says what of an array the other ranks have written: all but this one's own.
void note_other_ranks(const CheckpointTensor& tensor, const SavedArray& array,
                      CheckpointWriter& writer) {
  const std::int64_t all = array.entry->bytes(), end = array.own.end();
  writer.written_elsewhere(tensor.name, tensor.slot, 0, array.own.begin);
  writer.written_elsewhere(tensor.name, tensor.slot, end, all - end);
}

// That the ranks together have written what the arrays hold; each says how much it wrote.
void check_written(Communicator& comm, std::span<const SavedArray> arrays, std::int64_t own) {
  const auto all = all_gather_control(comm, "checkpoint bytes", std::as_bytes(std::span(&own, 1)));
  std::int64_t written = 0, wanted = 0;
  for (std::size_t r = 0; r < all.size() / sizeof(own); ++r) {
    std::int64_t theirs = 0;
    std::memcpy(&theirs, all.data() + r * sizeof(theirs), sizeof(theirs));
    written += theirs;
  }
  for (const SavedArray& array : arrays) wanted += array.entry->bytes();
  TH_CHECK(written == wanted, "{} of {} bytes were written", written, wanted);
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  Arena& host = engine.arena().host();
  if (!host.device().planning) failpoint("checkpoint.scratch");
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
  const std::vector<SavedArray> arrays = arrays_of(engine);
  const std::vector<CheckpointTensor> tensors = checkpoint_tensors(engine);
  std::optional<CheckpointWriter> writer;      // of rank 0
  std::optional<SharedCheckpointFile> shared;  // of the others
  together(comm, "checkpoint created", [&] {
    if (comm.rank() != 0) return;
    writer.emplace(
        io, directory,
        CheckpointContents{.step = state.step, .metadata = metadata.dump(), .tensors = tensors});
  });
  std::int64_t written = 0;
  together(comm, "checkpoint written", [&] {
    if (comm.rank() != 0) {
      shared.emplace(io, CheckpointWriter::data_path(directory, state.step));
    }
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      const auto& [entry, own] = arrays[i];
      const auto write = [&, begin = own.begin](std::int64_t offset,
                                                std::span<const std::byte> bytes) {
        if (writer) {
          writer->write(tensors[i].name, tensors[i].slot, begin + offset, bytes);
        } else {
          shared->write(tensors[i].name, tensors[i].slot, begin + offset, bytes);
        }
      };
      const ByteRange held = entry->held(comm.rank());
      for_host_pieces(engine.arena(), engine.held(*entry), {own.begin - held.begin, own.size}, true,
                      write);
      written += own.size;
      if (writer) note_other_ranks(tensors[i], arrays[i], *writer);
    }
    if (shared) shared->sync();
  });
  check_written(comm, arrays, written);
  std::filesystem::path saved = directory / fmt::format("ckpt-{}", state.step);
  together(comm, "checkpoint committed", [&] {
    if (writer) saved = writer->commit();
  });
  return saved;
}

TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader) {
  engine.keep_state_of(std::max<std::int64_t>(1, checkpoint_state(reader).step));
  const std::vector<CheckpointTensor> tensors = checkpoint_tensors(engine);
  reader.require(tensors);
  const std::vector<SavedArray> arrays = arrays_of(engine);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const ByteRange held = arrays[i].entry->held(engine.rank());
    for_host_pieces(engine.arena(), engine.held(*arrays[i].entry), {0, held.size}, false,
                    [&](std::int64_t offset, std::span<std::byte> bytes) {
                      reader.read(tensors[i].name, tensors[i].slot, held.begin + offset, bytes);
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
