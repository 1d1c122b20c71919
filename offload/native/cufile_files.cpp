#include "offload/native/cufile_files.hpp"

#include <algorithm>

#include "index/native/error.hpp"
#include "offload/native/cufile_worker.hpp"

namespace kvatlas {
namespace {

// Where the rows of a job's plan are said to lie: a piece's distance from its row is its place in the payload.
uint8_t* nominal_rows() { return reinterpret_cast<uint8_t*>(uintptr_t{1} << 46); }

}  // namespace

DirectFiles::DirectFiles(Layout layout, const std::string& folder, std::shared_ptr<const cuda::Driver> driver,
                         std::shared_ptr<const cufile::Library> library, int ordinal, const DirectOptions& options)
    : layout_(std::move(layout)) {
  static_cast<void>(plan_for(1));
  const bool is_unverified = options.mode == DirectMode::full || options.mode == DirectMode::read_only;
  if (is_unverified && !options.allow_unverified) throw Error(ErrorKind::input, "mode: expected allow_unverified with loads that nobody can verify, got it without");
  if (options.n_threads < 1 || options.n_threads > 64) throw Error(ErrorKind::input, "threads: expected 1 to 64, got " + std::to_string(options.n_threads));
  if (options.key_bytes < kKeyBytesMin || options.key_bytes > kKeyBytesMax) throw Error(ErrorKind::input, "key_bytes: expected 5 to 68, got " + std::to_string(options.key_bytes));
  shared_ = std::make_shared<Shared>(folder, layout_.row_bytes, std::move(driver), std::move(library), options);
  shared_->blocks = layout_.blocks_per_chunk;
  shared_->open(ordinal);
  std::vector<std::unique_ptr<Worker>> workers;  // all of them first: they may not be had
  for (uint32_t i = 0; i < options.n_threads; ++i) workers.push_back(std::make_unique<Worker>(*shared_));
  for (auto& worker : workers) {
    ++shared_->n_threads;
    threads_.emplace_back([shared = shared_, one = std::move(worker)]() mutable {
      one->run();
      one.reset();
      const std::lock_guard lock(shared->mutex);
      --shared->n_threads;
      shared->changed.notify_all();
    });
  }
}

DirectFiles::~DirectFiles() { close(0); }

CopyPlan DirectFiles::plan_for(size_t n_chunks) const {
  return CopyPlan(nominal_rows(), n_chunks * layout_.row_bytes, layout_.row_bytes, layout_.blocks_per_chunk, layout_.tensors, layout_.groups);
}

bool DirectFiles::submit(Direction direction, uint64_t number, const std::string& keys, const BlockRuns& blocks, uint64_t after_stream) {
  const DirectOptions& options = shared_->options;
  const std::string where = "job " + std::to_string(number) + ": expected ";
  if (options.mode == (direction == Direction::load ? DirectMode::write_only : DirectMode::read_only)) throw Error(ErrorKind::input, where + "what the mode allows, got the other direction");
  if (keys.empty() || keys.size() % options.key_bytes != 0) throw Error(ErrorKind::input, where + "keys of " + std::to_string(options.key_bytes) + " bytes, got " + std::to_string(keys.size()));
  const size_t n_chunks = keys.size() / options.key_bytes;
  std::vector<int32_t> rows(n_chunks);
  for (size_t i = 0; i < n_chunks; ++i) rows[i] = static_cast<int32_t>(i);
  BlockRuns numbered = blocks;
  numbered.rows = rows;
  uint64_t bytes = 0;
  const std::vector<Copy> runs = plan_for(n_chunks).runs(numbered, direction, bytes);
  if (direction == Direction::store) {
    for (size_t g = 0; g < blocks.group_sizes.size(); ++g) {
      if (blocks.group_sizes[g] % static_cast<int32_t>(layout_.blocks_per_chunk) != 0 || blocks.block_indices[g] % static_cast<int32_t>(layout_.blocks_per_chunk) != 0) {
        throw Error(ErrorKind::input, where + "whole chunks to store, got a part of one in group " + std::to_string(g));
      }
    }
  }
  auto job = std::make_shared<Job>();
  job->number = number;
  job->direction = direction;
  job->chunks.resize(n_chunks);
  for (size_t i = 0; i < n_chunks; ++i) job->chunks[i].key = keys.substr(i * options.key_bytes, options.key_bytes);
  for (const Copy& run : runs) {
    const bool is_store = direction == Direction::store;
    const uint64_t at = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(is_store ? run.to : run.from) - reinterpret_cast<uintptr_t>(nominal_rows()));
    const auto block = reinterpret_cast<uintptr_t>(is_store ? run.from : run.to);
    job->chunks[at / layout_.row_bytes].pieces.push_back({block, at % layout_.row_bytes, run.bytes});
  }
  return shared_->take(std::move(job), after_stream);
}

std::vector<FinishedDirect> DirectFiles::finished(double wait_s) { return shared_->finished(wait_s); }

DirectCounts DirectFiles::counts() {
  const std::lock_guard lock(shared_->mutex);
  return shared_->counts;
}

bool DirectFiles::close(double seconds) {
  const bool has_ended = shared_->close(seconds);
  for (std::thread& thread : threads_) {
    if (has_ended) thread.join();
    else thread.detach();
  }
  threads_.clear();
  return has_ended;
}

}  // namespace kvatlas
