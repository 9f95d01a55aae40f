#include "launcher/engine/checkpointing.h"

#include <nlohmann/json.hpp>

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

// Every saved array with the tensor that holds it.
std::vector<std::pair<CheckpointTensor, Tensor>> arrays(TrainEngine& engine) {
  std::vector<std::pair<CheckpointTensor, Tensor>> all;
  const ParamTable& params = engine.model().params();
  const auto add = [&](const ParamInfo& info, const std::string& slot, const Tensor& tensor) {
    all.push_back({{.name = info.name,
                    .slot = slot,
                    .dtype = tensor.dtype(),
                    .shape = {info.shape.dims().begin(), info.shape.dims().end()},
                    .transposed = info.transposed()},
                   tensor});
  };
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    if (!info.trainable) {
      add(info, "weight", engine.store().shard(id));
      continue;
    }
    if (engine.options().dtype == DType::kF32) add(info, "master", engine.store().shard(id));
    for (const auto& [key, tensor] : engine.state().all()) {
      if (key.param == id) add(info, key.slot, tensor);
    }
  }
  return all;
}

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.nbytes())};
}

Json parse_metadata(const CheckpointReader& reader) {
  const Json json = Json::parse(reader.metadata(), nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("state") || !json.contains("model_config")) {
    throw_user("{}: its metadata is not that of a training run", reader.path().string());
  }
  return json;
}

}  // namespace

std::vector<CheckpointTensor> checkpoint_tensors(TrainEngine& engine) {
  std::vector<CheckpointTensor> out;
  for (auto& [described, tensor] : arrays(engine)) out.push_back(described);
  return out;
}

std::filesystem::path save_checkpoint(TrainEngine& engine, FileEngine& files, const std::filesystem::path& directory,
                                      const TrainState& state, const CheckpointIdentity& identity) {
  const Reservation scratch = engine.arena().reserve(MemoryTag::kIo, kCheckpointScratchBytes, "checkpoint blocks");
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
  const CheckpointIo io{files, {static_cast<std::byte*>(scratch.data()), static_cast<std::size_t>(kCheckpointScratchBytes)}};
  const auto all = arrays(engine);
  std::vector<CheckpointTensor> described;
  for (const auto& [tensor, data] : all) described.push_back(tensor);
  CheckpointWriter writer(io, directory, {.step = state.step, .metadata = metadata.dump(), .tensors = described});
  for (const auto& [tensor, data] : all) writer.write(tensor.name, tensor.slot, 0, bytes_of(data));
  return writer.commit();
}

TrainState load_checkpoint(TrainEngine& engine, const CheckpointReader& reader) {
  const auto all = arrays(engine);
  std::vector<CheckpointTensor> expected;
  for (const auto& [tensor, data] : all) expected.push_back(tensor);
  reader.require(expected);
  for (const auto& [tensor, data] : all) reader.read(tensor.name, tensor.slot, 0, bytes_of(data));
  engine.refresh_weights();
  return checkpoint_state(reader);
}

TrainState checkpoint_state(const CheckpointReader& reader) {
  const Json json = parse_metadata(reader);
  try {
    const Json& s = json.at("state");
    return {.step = s.at("step"), .tokens_seen = s.at("tokens_seen"), .trained_tokens = s.at("trained_tokens"),
            .skipped_steps = s.at("skipped_steps"), .best_eval_loss = s.at("best_eval_loss"),
            .best_step = s.at("best_step"), .evals_without_gain = s.at("evals_without_gain")};
  } catch (const nlohmann::json::exception& e) {
    throw_user("{}: its metadata is incomplete: {}", reader.path().string(), e.what());
  }
}

CheckpointIdentity checkpoint_identity(const CheckpointReader& reader) {
  const Json json = parse_metadata(reader);
  try {
    return {.model_config = json.at("model_config"), .tokenizer = json.at("tokenizer"), .resolved_job = json.at("job")};
  } catch (const nlohmann::json::exception& e) {
    throw_user("{}: its metadata is incomplete: {}", reader.path().string(), e.what());
  }
}

}  // namespace thimble
