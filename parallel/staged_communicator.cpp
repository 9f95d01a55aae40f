#include "parallel/staged_communicator.h"

#include "core/device/device_memory.h"

namespace thimble {
namespace {

// Copies of the pieces, and where those that arrive belong.
class StagedWork final : public Completion::Work {
 public:
  StagedWork(Arena& arena, Exchange exchange)
      : memory_(arena.device().planning ? nullptr : &device_memory(arena.device().kind)),
        device_(std::move(exchange)),
        here_(static_cast<int>(device_.send.size())) {
    for (std::size_t r = 0; r < device_.send.size(); ++r) {
      for (const Bytes piece : device_.send[r]) {
        const MutableBytes copy = reserve(arena, piece.size());
        if (memory_ != nullptr)
          memory_->to_host(copy.data(), piece.data(), static_cast<std::int64_t>(piece.size()));
        here_.send[r].push_back(copy);
      }
      for (const MutableBytes piece : device_.receive[r])
        here_.receive[r].push_back(reserve(arena, piece.size()));
    }
  }
  const Exchange& here() const { return here_; }
  void set_exchange(Completion exchange) { exchange_ = std::move(exchange); }

  void wait() override {
    if (!ended_) end();
    if (error_ != nullptr) std::rethrow_exception(error_);
  }
  // The way back is part of it, which waits for the device's work so far: whoever finds this done
  // finds the bytes there.
  bool error_stays() const override { return true; }
  bool done() noexcept override {
    if (!ended_ && exchange_.done()) end();
    return ended_;
  }

 private:
  void end() noexcept {
    try {
      exchange_.wait();
      copy_back();
    } catch (...) {
      error_ = std::current_exception();
    }
    copies_.clear();
    ended_ = true;
  }

  void copy_back() {
    for (std::size_t r = 0; memory_ != nullptr && r < device_.receive.size(); ++r) {
      for (std::size_t i = 0; i < device_.receive[r].size(); ++i) {
        const MutableBytes piece = device_.receive[r][i];
        memory_->from_host(piece.data(), here_.receive[r][i].data(),
                           static_cast<std::int64_t>(piece.size()));
      }
    }
  }

  MutableBytes reserve(Arena& arena, std::size_t bytes) {
    copies_.push_back(arena.pinned().reserve(MemoryTag::kComm, static_cast<std::int64_t>(bytes),
                                             "tensors between ranks"));
    return {static_cast<std::byte*>(copies_.back().data()), bytes};
  }

  const DeviceMemory* memory_;  // null: a plan
  Exchange device_, here_;
  std::vector<Reservation> copies_;
  bool ended_ = false;
  std::exception_ptr error_;
  Completion exchange_;  // between the ranks; its end comes before that of what it moves
};

}  // namespace

Completion StagedCommunicator::start(const OpLabel& label, Purpose purpose, Exchange exchange) {
  if (purpose == Purpose::kControl) return host_.start(label, purpose, std::move(exchange));
  auto work = std::make_unique<StagedWork>(arena_, std::move(exchange));
  work->set_exchange(host_.start(label, purpose, work->here()));
  return Completion(std::move(work));
}

}  // namespace thimble
