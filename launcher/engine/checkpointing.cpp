#include "launcher/engine/checkpointing.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

// A saved array, and the rows of it that this rank holds.
struct SavedArray {
  CheckpointTensor described;
  ParamId id = ParamId::kNone;
  Tensor held;
  std::int64_t row_bytes = 0;
};

std::vector<SavedArray> arrays(TrainEngine& engine) {
  std::vector<SavedArray> all;
  const ParamTable& params = engine.model().params();
  const auto add = [&](ParamId id, const std::string& slot, const Tensor& tensor) {
    const ParamInfo& info = params.info(id);
    const std::int64_t rows = std::max<std::int64_t>(info.storage_shape()[0], 1);
    all.push_back({.described = {.name = info.name,
                                 .slot = slot,
                                 .dtype = tensor.dtype(),
                                 .shape = {info.shape.dims().begin(), info.shape.dims().end()},
                                 .transposed = info.transposed()},
                   .id = id,
                   .held = tensor,
                   .row_bytes = info.shape.numel() / rows * dtype_size(tensor.dtype())});
  };
  for (const ParamId id : params.ids()) {
    if (!params.info(id).trainable) {
      add(id, "weight", engine.store().shard(id));
      continue;
    }
    if (engine.options().dtype == DType::kF32) add(id, "master", engine.store().shard(id));
    for (const auto& [key, tensor] : engine.state().all()) {
      if (key.param == id) add(id, key.slot, tensor);
    }
  }
  return all;
}

std::vector<CheckpointTensor> descriptions(const std::vector<SavedArray>& all) {
  std::vector<CheckpointTensor> out;
  for (const SavedArray& array : all) out.push_back(array.described);
  return out;
}

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.nbytes())};
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
  } catch (const SystemError& e) {
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

// The rows of an array that this rank writes: where several hold the same rows, each writes a part
// of them.
std::span<std::byte> own_bytes(TrainEngine& engine, const SavedArray& array,
                               std::int64_t& byte_offset) {
  const int rank = engine.comm().rank();
  const Slice held = engine.parallel().updated(array.id, rank),
              own = engine.parallel().reduced(array.id, rank);
  byte_offset = own.begin * array.row_bytes;
  return bytes_of(array.held.rows(own.begin - held.begin, own.end - held.begin));
}

void note_other_ranks(TrainEngine& engine, const std::vector<SavedArray>& all,
                      CheckpointWriter& writer) {
  for (int r = 0; r < engine.comm().size(); ++r) {
    if (r == engine.comm().rank()) continue;
    for (const SavedArray& a : all) {
      const Slice rows = engine.parallel().reduced(a.id, r);
      writer.written_elsewhere(a.described.name, a.described.slot, rows.begin * a.row_bytes,
                               rows.rows() * a.row_bytes);
    }
  }
}

}  // namespace

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files,
                                      const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  const Reservation scratch =
      engine.arena().reserve(MemoryTag::kIo, kCheckpointScratchBytes, "checkpoint blocks");
  if (engine.arena().device().planning) return {};
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
                        {"evals_without_gain", state.evals_without_gain}}}};
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
      std::int64_t offset = 0;
      const std::span<const std::byte> bytes = own_bytes(engine, array, offset);
      if (writer) {
        writer->write(array.described.name, array.described.slot, offset, bytes);
      } else {
        shared->write(array.described.name, array.described.slot, offset, bytes);
      }
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
  const auto all = arrays(engine);
  reader.require(descriptions(all));
  for (const SavedArray& array : all) {
    const Slice held = engine.parallel().updated(array.id, engine.comm().rank());
    if (held.rows() == 0) continue;
    reader.read(array.described.name, array.described.slot, held.begin * array.row_bytes,
                bytes_of(array.held));
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
            .evals_without_gain = s.at("evals_without_gain")};
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
