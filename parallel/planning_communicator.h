// Stands for one rank of any number when memory and traffic are planned: counts what would be sent,
// moves nothing.
#pragma once

#include "parallel/communicator.h"

namespace thimble {

class PlanningCommunicator final : public Communicator {
 public:
  PlanningCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Completion start(const OpLabel&, Purpose purpose, Exchange exchange) override {
    traffic_.count(purpose, exchange);
    return {};
  }
  Completion start_sum(const OpLabel&, std::vector<RowSum> sums) override {
    traffic_.count(sums);
    return {};
  }
  void set_time_limit(std::chrono::milliseconds) override {}
  void abort(const std::string&) noexcept override {}
  Traffic traffic() const override { return traffic_; }

 private:
  int rank_, size_;
  Traffic traffic_;
};

}  // namespace thimble
