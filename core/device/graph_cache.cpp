#include "core/device/graph_cache.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "core/device/gpu.h"

namespace thimble {

void GraphCache::forget() {
  if (graph_ != nullptr) graphs_->release(std::exchange(graph_, nullptr));
}

GraphCache::How GraphCache::run(std::uint64_t key, const std::function<void()>& body) {
  const bool known = seen_ && key == key_;
  if (!known) forget();
  key_ = key;
  seen_ = true;
  if (graphs_ == nullptr || !known) {
    body();
    return How::kDone;
  }
  const bool replays = graph_ != nullptr;
  if (!replays) {
    graphs_->begin();
    try {
      body();
    } catch (...) {
      if (void* const part = graphs_->end()) graphs_->release(part);
      throw;
    }
    graph_ = graphs_->end();
    if (graph_ == nullptr) {
      spdlog::warn("the GPU's work could not be recorded as a graph; it is done as it comes");
      graphs_ = nullptr;
      body();
      return How::kDone;
    }
  }
  graphs_->launch(graph_);
  if (replays) ++replays_;
  return replays ? How::kReplayed : How::kRecorded;
}

}  // namespace thimble
