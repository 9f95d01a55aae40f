#include "core/device/stream.h"

#include <spdlog/spdlog.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace thimble {

struct Event::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr error;
  bool done = false;

  ~State() {
    if (!error) return;
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      spdlog::error("background work failed and nobody waited for it: {}", e.what());
    } catch (...) {
      spdlog::error("background work failed and nobody waited for it");
    }
  }
};

void Event::wait() {
  if (!state_) return;
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->done; });
  if (state_->error) std::rethrow_exception(std::exchange(state_->error, nullptr));
}

bool Event::done() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

struct Stream::Impl {
  struct Item {
    std::function<void()> work;
    std::shared_ptr<Event::State> state;
  };
  std::string name;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Item> queue;
  bool ending = false;
  std::thread worker;

  void loop() {
    while (true) {
      Item item;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return ending || !queue.empty(); });
        if (queue.empty()) return;
        item = std::move(queue.front());
        queue.pop_front();
      }
      std::exception_ptr error;
      try {
        item.work();
      } catch (...) {
        error = std::current_exception();
      }
      item.work = nullptr;
      const std::lock_guard lock(item.state->mutex);
      item.state->error = error;
      item.state->done = true;
      item.state->changed.notify_all();
    }
  }
};

Stream::Stream(std::string name) : impl_(std::make_unique<Impl>()) {
  impl_->name = std::move(name);
  impl_->worker = std::thread([impl = impl_.get()] { impl->loop(); });
}

Stream::~Stream() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->changed.notify_all();
  impl_->worker.join();
}

Event Stream::run(std::function<void()> work) {
  Event event;
  event.state_ = std::make_shared<Event::State>();
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->queue.push_back({std::move(work), event.state_});
  }
  impl_->changed.notify_one();
  return event;
}

}  // namespace thimble
