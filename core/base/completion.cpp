#include "core/base/completion.h"

#include <spdlog/spdlog.h>

#include <string>

namespace thimble {
namespace {

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "not a std::exception";
  }
}

void log_unread(const std::exception_ptr& error) noexcept {
  try {
    spdlog::error("background work failed and nobody waited for it: {}", text_of(error));
  } catch (...) {  // NOLINT(bugprone-empty-catch): no memory for words about it
  }
}

class SharedWork final : public Completion::Work {
 public:
  explicit SharedWork(std::shared_ptr<PartsUnderWay> parts) : parts_(std::move(parts)) {}
  void wait() override { parts_->wait(); }
  bool done() noexcept override { return parts_->done(); }

 private:
  std::shared_ptr<PartsUnderWay> parts_;
};

}  // namespace

Completion& Completion::operator=(Completion&& other) noexcept {
  if (this != &other) {
    finish();
    work_ = std::move(other.work_);
  }
  return *this;
}

void Completion::wait() {
  if (const auto work = std::move(work_)) work->wait();
}

void Completion::follow() {
  if (work_ != nullptr && !work_->follow()) wait();
}

void Completion::finish() noexcept {
  const auto work = std::move(work_);
  if (work == nullptr) return;
  try {
    work->wait();
  } catch (...) {
    if (!work->error_stays()) log_unread(std::current_exception());
  }
}

void wait_all(std::span<Completion> all) {
  std::exception_ptr first;
  for (Completion& one : all) {
    try {
      one.wait();
    } catch (...) {
      if (first == nullptr) {
        first = std::current_exception();
      } else {
        log_unread(std::current_exception());
      }
    }
  }
  if (first != nullptr) std::rethrow_exception(first);
}

void PartsUnderWay::end_part(std::exception_ptr error) noexcept {
  const std::lock_guard lock(mutex_);
  if (error != nullptr && error_ == nullptr) error_ = std::move(error);
  if (--pending_ == 0) all_ended_.notify_all();
}

bool PartsUnderWay::failed() const {
  const std::lock_guard lock(mutex_);
  return error_ != nullptr;
}

bool PartsUnderWay::done() const {
  const std::lock_guard lock(mutex_);
  return pending_ == 0;
}

void PartsUnderWay::wait() {
  std::unique_lock lock(mutex_);
  all_ended_.wait(lock, [this] { return pending_ == 0; });
  if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
}

Completion completion_of(std::shared_ptr<PartsUnderWay> parts) {
  return Completion(std::make_unique<SharedWork>(std::move(parts)));
}

}  // namespace thimble
