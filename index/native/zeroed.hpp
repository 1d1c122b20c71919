// An array that begins as zeros and takes memory as it is written: making a large one is no pause.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace kvatlas {

template <class T>
class Zeroed {
 public:
  Zeroed() = default;
  explicit Zeroed(size_t n) : n_(n), items_(static_cast<T*>(std::calloc(n, sizeof(T)))) {
    if (n > 0 && items_ == nullptr) throw std::bad_alloc();
  }
  Zeroed(Zeroed&& other) noexcept : n_(std::exchange(other.n_, 0)), items_(std::move(other.items_)) {}
  Zeroed& operator=(Zeroed&& other) noexcept {
    n_ = std::exchange(other.n_, 0);
    items_ = std::move(other.items_);
    return *this;
  }
  T& operator[](size_t i) { return items_[i]; }
  const T& operator[](size_t i) const { return items_[i]; }
  size_t size() const { return n_; }
  size_t bytes() const { return n_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* items) const { std::free(items); }
  };
  size_t n_ = 0;
  std::unique_ptr<T[], Free> items_;
};

}  // namespace kvatlas
