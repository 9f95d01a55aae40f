#include "train/train_state.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

Json parse_metadata(const std::string& metadata, const std::string& where) {
  const Json json = Json::parse(metadata, nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("state") ||
      !json.contains("model_config")) {
    throw_user("{}: its metadata is not that of a training run", where);
  }
  return json;
}

}  // namespace

std::string checkpoint_metadata(const TrainState& state, const CheckpointIdentity& identity) {
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
  return metadata.dump();
}

TrainState checkpoint_state(const StateReader& reader) {
  return state_of_metadata(reader.metadata(), reader.name());
}

TrainState state_of_metadata(const std::string& metadata, const std::string& where) {
  const Json json = parse_metadata(metadata, where);
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
    throw_user("{}: its metadata is incomplete: {}", where, e.what());
  }
}

CheckpointIdentity checkpoint_identity(const StateReader& reader) {
  const Json json = parse_metadata(reader.metadata(), reader.name());
  try {
    return {.model_config = json.at("model_config"),
            .tokenizer = json.at("tokenizer"),
            .resolved_job = json.at("job")};
  } catch (const nlohmann::json::exception& e) {
    throw_user("{}: its metadata is incomplete: {}", reader.name(), e.what());
  }
}

}  // namespace thimble
