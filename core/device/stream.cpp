#include "core/device/stream.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace thimble {

struct Stream::Impl {
  struct Item {
    std::function<void()> work;
    std::shared_ptr<PartsUnderWay> end;
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
      item.end->end_part(std::move(error));
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

Completion Stream::run(std::function<void()> work) {
  auto end = std::make_shared<PartsUnderWay>(1);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->queue.push_back({std::move(work), end});
  }
  impl_->changed.notify_one();
  return completion_of(std::move(end));
}

}  // namespace thimble
